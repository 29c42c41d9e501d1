// A race in words, with the lines of the kernels.
#pragma once

#include <cstdint>
#include <string>

#include "clocks.h"

namespace emulation::races {

struct Report {
  Access earlier;
  uint32_t lanes;  // those of `earlier` that nothing orders before `now`
  Access now;
  bool shared;
};

uint32_t in_library(const void* pc);
std::string words(const Report& race);

}  // namespace emulation::races

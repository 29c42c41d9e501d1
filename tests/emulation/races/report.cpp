#include "report.h"

#include <dlfcn.h>

#include <bit>
#include <cstdio>
#include <sstream>

namespace emulation::races {
namespace {

const Dl_info& library() {
  static const Dl_info info = [] {
    Dl_info found{};
    dladdr(reinterpret_cast<const void*>(&words), &found);
    return found;
  }();
  return info;
}

// The line of a kernel, and through which lines of shared headers it came there; the emulator's
// own are left out.
std::string place(const uint32_t pc) {
  std::ostringstream command;
  command << "addr2line -i -e '" << library().dli_fname << "' 0x" << std::hex << pc - 1;
  FILE* const lines = popen(command.str().c_str(), "r");
  std::string text;
  int calls = 0;
  char line[4096];
  while (lines && std::fgets(line, sizeof(line), lines)) {
    std::string file = line;
    file = file.substr(0, file.find_first_of(" \n"));  // without "(discriminator 3)"
    if (file.find("/emulation/include/") != std::string::npos) continue;
    file = file.substr(file.rfind('/') + 1);
    text += (!calls++ ? "" : calls == 2 ? ", called at " : ", ") + file;
  }
  if (lines) pclose(lines);
  return text.empty() ? "a line that addr2line does not find" : text;
}

std::string one(const Access& access, const uint32_t lanes) {
  const char* const kinds[] = {"a read", "a write", "an atomic"};
  std::ostringstream text;
  text << "\n  " << kinds[static_cast<unsigned>(access.kind)] << " by block " << access.block
       << ", thread " << access.warp * 32 + std::countr_zero(lanes) << ", " << place(access.pc);
  return text.str();
}

}  // namespace

uint32_t in_library(const void* pc) {
  static const auto base = reinterpret_cast<uintptr_t>(library().dli_fbase);
  return static_cast<uint32_t>(reinterpret_cast<uintptr_t>(pc) - base);
}

std::string words(const Report& race) {
  return std::string("a race in ") + (race.shared ? "shared" : "global") +
         " memory, which nothing orders:" + one(race.earlier, race.lanes) +
         one(race.now, race.now.lanes);
}

}  // namespace emulation::races

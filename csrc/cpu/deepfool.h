// The rules of DeepFool that the step and the candidate share.
#pragma once

#include <limits>

#include "vector.h"

namespace jacfast::cpu {

// Whether ||w|| can be divided by: finite and above the smallest normal number.
template <typename A>
bool usable(const double norm) {
  return norm > std::numeric_limits<A>::min() && std::isfinite(norm);
}

// |f| / ||w||, rounded to the type that distances are compared in; NaN loses every comparison.
template <typename A>
A distance_to(const A f, const double norm) {
  return static_cast<A>(std::abs(static_cast<double>(f)) / norm);
}

}  // namespace jacfast::cpu

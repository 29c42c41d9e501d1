// What the tests of the CPU twins share.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

inline void expect_near(const double got, const double want, const double tolerance,
                        const char* what) {
  if (std::abs(got - want) <= tolerance * (1 + std::abs(want))) return;
  std::printf("FAILED %s: got %.9g, want %.9g\n", what, got, want);
  std::exit(1);
}

// Near to normal, of integers: std::normal_distribution is another one in each library.
inline std::vector<float> normal(const int64_t count, const unsigned seed) {
  std::mt19937 engine(seed);
  std::vector<float> values(count);
  for (float& value : values) {
    int64_t sum = 0;
    for (int i = 0; i < 3; ++i) sum += static_cast<int32_t>(engine());
    value = static_cast<float>(sum) * 0x1p-31f;  // of variance 1
  }
  return values;
}

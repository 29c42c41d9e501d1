// Asked of a compiler before the build: C++20.
#include <bit>
#include <concepts>
#include <cstdint>

static_assert(__cplusplus >= 202002L);

template <std::integral I>
struct Sum {
  I of, and_of;
};

int main() {
  const auto sum = Sum<int>{.of = 1, .and_of = std::bit_cast<int32_t>(-1.0f)};
  return sum.of + sum.and_of < 0 ? 0 : 1;
}

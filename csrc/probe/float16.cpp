// Asked of a compiler before the build: a 16-bit floating-point type, with the conversions that the
// processor lacks.
#include "../cpu/half.h"

int main(const int count, char**) {
  const auto half = static_cast<jacfast::cpu::Half>(1.0f / static_cast<float>(count));
  return static_cast<float>(half) > 0 ? 0 : 1;
}

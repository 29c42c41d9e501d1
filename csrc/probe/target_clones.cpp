// Asked of a compiler before the build: several bodies of one function template, of which the
// loader takes the one for the processor.
#include "../cpu/clones.h"

template <typename T>
JACFAST_CLONES static T twice(const T value) {
  return 2 * value;
}

int main() { return twice(1.5) == 3 ? 0 : 1; }

// What the derivatives of normalisations share on the CPU: rows of half types by way of floats.
#pragma once

#include <type_traits>
#include <vector>

#include "../ops/norm.h"
#include "vector.h"

namespace jacfast::cpu {

template <typename From, typename To>
JACFAST_CLONES static void convert(const From* __restrict from, const int64_t size,
                                   To* __restrict to) {
  for (int64_t d = 0; d < size; ++d) to[d] = static_cast<To>(from[d]);
}

// Rows of T as numbers to compute with: themselves, or floats in a room of their own.
template <typename T>
class Values {
  static constexpr bool ITSELF = std::is_floating_point_v<T>;
  int64_t size;
  std::vector<Acc<T>> room;

 public:
  explicit Values(const int64_t size, const int rows = 1)
      : size(size), room(ITSELF ? 0 : rows * size) {}
  const Acc<T>* read(const void* from, const int64_t begin, const int row = 0) {
    const T* at = static_cast<const T*>(from) + begin;
    if constexpr (ITSELF) return at;
    convert(at, size, room.data() + row * size);
    return room.data() + row * size;
  }
  Acc<T>* to_write(void* to, const int64_t begin, const int row = 0) {
    if constexpr (ITSELF) return static_cast<T*>(to) + begin;
    return room.data() + row * size;
  }
  void written(void* to, const int64_t begin, const int row = 0) {
    if constexpr (!ITSELF) convert(room.data() + row * size, size, static_cast<T*>(to) + begin);
  }
};

// The first derivative of what `samples` have in a group; sums over them are added to `partial`.
template <typename T>
void first_of_group(const Norm& op, Span samples, int64_t group, double* partial);

}  // namespace jacfast::cpu

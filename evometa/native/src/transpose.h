// Transposition of matrices in registers.
#pragma once

#include <cstdint>
#include <utility>

#include "vector.h"

namespace evometa {

#if defined(__clang__) || __GNUC__ >= 12
#define EVOMETA_SHUFFLE(S, a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
template <class S>
using LaneIndex = decltype(Vector<S>{} < Vector<S>{});
#define EVOMETA_SHUFFLE(S, a, b, ...) __builtin_shuffle(a, b, LaneIndex<S>{__VA_ARGS__})
#endif

// Swaps the halves of length kStep that lie off the diagonal of every 2·kStep square of two rows.
template <class S, int kStep, int... kLane>
EVOMETA_INLINE void swap_off_diagonal(Vector<S>& a, Vector<S>& b, std::integer_sequence<int, kLane...>) {
  constexpr int w = VectorOf<S>::width;
  const Vector<S> upper = EVOMETA_SHUFFLE(S, a, b, (kLane & kStep ? w + kLane - kStep : kLane)...);
  b = EVOMETA_SHUFFLE(S, a, b, (kLane & kStep ? w + kLane : kLane + kStep)...);
  a = upper;
}

template <class S, int kStep = 1>
EVOMETA_INLINE void transpose_square(Vector<S>* rows) {
  constexpr int w = VectorOf<S>::width;
  if constexpr (kStep < w) {
    for (int i = 0; i < w; ++i)
      if (!(i & kStep)) swap_off_diagonal<S, kStep>(rows[i], rows[i + kStep], std::make_integer_sequence<int, w>{});
    transpose_square<S, 2 * kStep>(rows);
  }
}

// from[n_rows][from_width] → to[n_columns][to_width]. Columns come in whole vectors; rows are filled up to whole
// vectors with zeros.
template <class S>
inline void transpose(const S* from, int64_t n_rows, int64_t n_columns, int64_t from_width, S* to, int64_t to_width) {
  constexpr int w = VectorOf<S>::width;
  for (int64_t row = 0; row < n_rows; row += w)
    for (int64_t column = 0; column < n_columns; column += w) {
      Vector<S> square[w];
      for (int i = 0; i < w; ++i)
        square[i] = row + i < n_rows ? load(from + (row + i) * from_width + column) : Vector<S>{};
      transpose_square<S>(square);
      for (int i = 0; i < w; ++i) store(to + (column + i) * to_width + row, square[i]);
    }
}

}  // namespace evometa

// Products of matrices so small that packing them would cost as much as multiplying them.
//
//   out[M][N] = bias[M] + left[M][K] · right[K][N],   or without bias,   or added to what out holds
//
// A number of `left` at a time is spread over a vector, so `left` may have any strides and a transposed matrix
// costs nothing. Rows of `right` are contiguous and filled up to whole vectors, with numbers that do not count.
#pragma once

#include <algorithm>
#include <cstdint>

#include "vector.h"

namespace evometa {

template <class S>
struct Strided {
  const S* data;
  int64_t row, column;  // distance of neighbours in a column, and in a row
};

template <class S>
constexpr int64_t padded(int64_t columns) {
  return (columns + VectorOf<S>::width - 1) / VectorOf<S>::width * VectorOf<S>::width;
}

// What becomes of a product: bias[M] (or null) is added, and `out` itself where `accumulate` is set.
template <class S>
struct Target {
  S* out;
  int64_t row;
  const S* bias;
  bool accumulate;
};

// R rows and V vectors of columns, of which n_columns are wanted; the sums stay in registers over K.
template <class S, int R, int V>
inline void multiply_tile(Strided<S> left, int64_t depth, const S* right, int64_t right_row, Target<S> target,
                          int64_t n_columns) {
  constexpr int w = VectorOf<S>::width;
  Vector<S> sums[R][V];
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < V; ++v) sums[r][v] = splat<S>(target.bias ? target.bias[r] : S(0));
  const S* weights = left.data;
#pragma GCC unroll 4
  for (int64_t k = 0; k < depth; ++k) {
    Vector<S> in[V];
    for (int v = 0; v < V; ++v) in[v] = load(right + v * w);
    for (int r = 0; r < R; ++r) {
      const Vector<S> weight = splat<S>(weights[r * left.row]);
      for (int v = 0; v < V; ++v) sums[r][v] += weight * in[v];
    }
    weights += left.column;
    right += right_row;
  }
  if (n_columns >= V * w && !target.accumulate) {
    for (int r = 0; r < R; ++r)
      for (int v = 0; v < V; ++v) store(target.out + r * target.row + v * w, sums[r][v]);
    return;
  }
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < V; ++v) {
      S* to = target.out + r * target.row + v * w;
      const int64_t wanted = n_columns - v * w;
      if (wanted >= w) {
        store(to, target.accumulate ? load(to) + sums[r][v] : sums[r][v]);
      } else {
        for (int64_t lane = 0; lane < wanted; ++lane)
          to[lane] = (target.accumulate ? to[lane] : S(0)) + sums[r][v][lane];
      }
    }
}

template <class S, int V>
inline void multiply_strip(Strided<S> left, int64_t n_rows, int64_t depth, const S* right, int64_t right_row,
                           Target<S> target, int64_t n_columns) {
  constexpr int64_t kMost = 6;  // 6 × 2 sums, two vectors and a weight fill the 16 registers of AVX2
  const int64_t n_panels = (n_rows + kMost - 1) / kMost;
  for (int64_t panel = 0; panel < n_panels; ++panel) {
    const int64_t rows = n_rows / n_panels + (panel < n_rows % n_panels);  // even panels: the fewer short ones
    switch (rows) {
      case 6: multiply_tile<S, 6, V>(left, depth, right, right_row, target, n_columns); break;
      case 5: multiply_tile<S, 5, V>(left, depth, right, right_row, target, n_columns); break;
      case 4: multiply_tile<S, 4, V>(left, depth, right, right_row, target, n_columns); break;
      case 3: multiply_tile<S, 3, V>(left, depth, right, right_row, target, n_columns); break;
      case 2: multiply_tile<S, 2, V>(left, depth, right, right_row, target, n_columns); break;
      default: multiply_tile<S, 1, V>(left, depth, right, right_row, target, n_columns);
    }
    left.data += rows * left.row;
    target.out += rows * target.row;
    if (target.bias) target.bias += rows;
  }
}

template <class S>
inline void multiply(Strided<S> left, int64_t n_rows, int64_t depth, const S* right, int64_t right_row,
                     int64_t n_columns, Target<S> target) {
  constexpr int64_t w = VectorOf<S>::width;
  for (int64_t start = 0; start < n_columns;) {
    const int64_t rest = n_columns - start;
    const Target<S> part{target.out + start, target.row, target.bias, target.accumulate};
    if (rest > w) {
      multiply_strip<S, 2>(left, n_rows, depth, right + start, right_row, part, rest);
      start += 2 * w;
    } else {
      multiply_strip<S, 1>(left, n_rows, depth, right + start, right_row, part, rest);
      start += w;
    }
  }
}

}  // namespace evometa

// Gradients of a matrix: sums over coordinates of products, block after block.
//
//   total[rows][columns] += left[rows][kWidth] · right[kWidth][columns]
//
// `right` is a block of a layer's inputs, transposed so that vectors run along its rows; the sums of a tile stay
// in registers for a whole block.
#pragma once

#include <algorithm>
#include <cstdint>

#include "blocks.h"
#include "transpose.h"

namespace evometa {

template <class S>
constexpr int64_t whole_vectors(int64_t n) {
  return (n + VectorOf<S>::width - 1) / VectorOf<S>::width * VectorOf<S>::width;
}

// from[n_rows][kWidth] → to[kWidth][stride], n_rows rounded up to whole vectors: so many rows must be there.
template <int64_t kWidth, class S>
inline void transpose(const S* from, int64_t n_rows, int64_t stride, S* to) {
  constexpr int w = VectorOf<S>::width;
  for (int64_t row = 0; row < n_rows; row += w)
    for (int64_t column = 0; column < kWidth; column += w) {
      Vector<S> square[w];
      for (int i = 0; i < w; ++i) square[i] = load(from + (row + i) * kWidth + column);
      transpose_square<S>(square);
      for (int i = 0; i < w; ++i) store(to + (column + i) * stride + row, square[i]);
    }
}

template <class S>
class WeightGradient {
 public:
  WeightGradient(int64_t rows, int64_t columns)
      : rows_(rows), columns_(whole_vectors<S>(columns)), totals_(rows * columns_), sums_(rows * VectorOf<S>::width) {}

  void clear() {
    std::fill_n(totals_.data(), rows_ * columns_, S(0));
    std::fill_n(sums_.data(), rows_ * VectorOf<S>::width, S(0));
  }

  // Adds a block; `right` has `stride` numbers a row.
  template <int64_t kWidth>
  void add(const S* left, const S* right, int64_t stride) {
    constexpr int w = VectorOf<S>::width;
    int64_t column = 0;
    for (; column + 2 * w <= columns_; column += 2 * w) {
      int64_t row = 0;  // six and four rows are quickest, and eight are two fours
      for (; row + 6 <= rows_ && row + 8 != rows_; row += 6) add_tile<6, 2, kWidth>(left, right + column, stride, row, column);
      for (; row + 4 <= rows_; row += 4) add_tile<4, 2, kWidth>(left, right + column, stride, row, column);
      for (; row + 2 <= rows_; row += 2) add_tile<2, 2, kWidth>(left, right + column, stride, row, column);
      for (; row < rows_; ++row) add_tile<1, 2, kWidth>(left, right + column, stride, row, column);
    }
    if (column < columns_) {
      int64_t row = 0;
      for (; row + 8 <= rows_; row += 8) add_tile<8, 1, kWidth>(left, right + column, stride, row, column);
      for (; row + 2 <= rows_; row += 2) add_tile<2, 1, kWidth>(left, right + column, stride, row, column);
      for (; row < rows_; ++row) add_tile<1, 1, kWidth>(left, right + column, stride, row, column);
    }
    for (int64_t row = 0; row < rows_; ++row) {
      Vector<S> sum = load(sums_.row(row, w));
      for (int64_t i = 0; i < kWidth; i += w) sum += load(left + row * kWidth + i);
      store(sums_.row(row, w), sum);
    }
  }

  S at(int64_t row, int64_t column) { return totals_.row(row, columns_)[column]; }
  // Σ over coordinates of `left`: the gradient of a bias.
  S sum(int64_t row) { return sum_of<S>(load(sums_.row(row, VectorOf<S>::width))); }

 private:
  template <int kRows, int kVectors, int64_t kWidth>
  EVOMETA_INLINE void add_tile(const S* __restrict left, const S* __restrict right, int64_t stride, int64_t row, int64_t column) {
    using V = Vector<S>;
    constexpr int w = VectorOf<S>::width;
    S* const totals = totals_.row(row, columns_) + column;
    V sums[kRows][kVectors];
    for (int r = 0; r < kRows; ++r)
      for (int v = 0; v < kVectors; ++v) sums[r][v] = load(totals + r * columns_ + v * w);
    left += row * kWidth;
    for (int64_t i = 0; i < kWidth; ++i, right += stride) {
      V in[kVectors];
      for (int v = 0; v < kVectors; ++v) in[v] = load(right + v * w);
      for (int r = 0; r < kRows; ++r) {
        const V factor = splat(left[r * kWidth + i]);
        for (int v = 0; v < kVectors; ++v) sums[r][v] += factor * in[v];
      }
    }
    for (int r = 0; r < kRows; ++r)
      for (int v = 0; v < kVectors; ++v) store(totals + r * columns_ + v * w, sums[r][v]);
  }

  int64_t rows_, columns_;
  Rows<S> totals_, sums_;
};

}  // namespace evometa

// A small matrix, packed once and multiplied with block after block of coordinates.
//
//   out[rows][kWidth] = bias + W·x[columns][kWidth]
//
// The rows are cut into panels of six and of four, the shapes whose sums fit the registers and keep the
// arithmetic units busy, so that hardly a row is padded.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "vector.h"

namespace evometa {

template <class S>
class PackedMatrix {
 public:
  // W has its entries `row_stride` and `column_stride` apart; a bias that is null is zero.
  void pack(const S* w, int64_t rows, int64_t columns, int64_t row_stride, int64_t column_stride, const S* bias) {
    rows_ = rows;
    columns_ = columns;
    const int64_t left = rows % 6;
    const int64_t fours = left == 0 || left == 5 ? 0 : left >= 3 || rows < 6 ? 1 : 2;
    sixes_ = (rows - 4 * fours + 5) / 6;
    packed_.resize(static_cast<std::size_t>((6 * sixes_ + 4 * fours) * (columns + 1)));
    S* next = packed_.data();
    for (int64_t first = 0; first < rows; first += panel_rows(first)) {
      const int64_t n_rows = panel_rows(first), n_there = std::min(n_rows, rows - first);
      std::fill_n(next, n_rows * (columns + 1), S(0));
      for (int64_t row = 0; bias && row < n_there; ++row) next[row] = bias[first + row];
      next += n_rows;
      for (int64_t column = 0; column < columns; ++column, next += n_rows)
        for (int64_t row = 0; row < n_there; ++row) next[row] = w[(first + row) * row_stride + column * column_stride];
    }
  }

  // out = bias + W·x, or out += bias + W·x. finish(rows, n) is called for every n numbers of `out` that are done,
  // while they are still close by.
  template <int64_t kWidth, bool kAdd = false, class Finish>
  void times(const S* x, S* out, Finish finish) const {
    const S* panel = packed_.data();
    int64_t row = 0;
    for (; row < 6 * sixes_; row += 6, panel += 6 * (columns_ + 1))
      panel_times<6, kWidth, kAdd>(panel, x, out + row * kWidth, std::min<int64_t>(6, rows_ - row), finish);
    for (; row < rows_; row += 4, panel += 4 * (columns_ + 1))
      panel_times<4, kWidth, kAdd>(panel, x, out + row * kWidth, std::min<int64_t>(4, rows_ - row), finish);
  }
  template <int64_t kWidth, bool kAdd = false>
  void times(const S* x, S* out) const {
    times<kWidth, kAdd>(x, out, [](S*, int64_t) {});
  }

 private:
  int64_t panel_rows(int64_t first) const { return first < 6 * sixes_ ? 6 : 4; }

  template <int kRows, int64_t kWidth, bool kAdd, class Finish>
  EVOMETA_INLINE void panel_times(const S* panel, const S* x, S* out, int64_t n_rows, Finish finish) const {
    for (int64_t strip = 0; strip < kWidth; strip += 2 * VectorOf<S>::width)
      if (n_rows == kRows)
        strip_times<kRows, kWidth, kAdd>(panel, x + strip, out + strip, kRows);
      else
        strip_times<kRows, kWidth, kAdd>(panel, x + strip, out + strip, n_rows);
    finish(out, n_rows * kWidth);
  }

  template <int kRows, int64_t kWidth, bool kAdd>
  EVOMETA_INLINE void strip_times(const S* __restrict panel, const S* __restrict x, S* __restrict out, int64_t n_rows) const {
    using V = Vector<S>;
    constexpr int w = VectorOf<S>::width;
    V sums[kRows][2];
    for (int r = 0; r < kRows; ++r) sums[r][0] = sums[r][1] = splat(panel[r]);
#pragma GCC unroll 4
    for (int64_t k = 0; k < columns_; ++k) {
      panel += kRows;
      const V left = load(x), right = load(x + w);
      x += kWidth;
      for (int r = 0; r < kRows; ++r) {
        const V weight = splat(panel[r]);
        sums[r][0] += weight * left;
        sums[r][1] += weight * right;
      }
    }
    for (int r = 0; r < kRows; ++r)
      if (r < n_rows)
        for (int v = 0; v < 2; ++v) {
          S* const to = out + r * kWidth + v * w;
          store(to, kAdd ? load(to) + sums[r][v] : sums[r][v]);
        }
  }

  int64_t rows_ = 0, columns_ = 0, sixes_ = 0;
  std::vector<S> packed_;
};

}  // namespace evometa

// Dense layers of a few units on a block of coordinates, and the products of their gradients.
//
// For the few rows of a small network: rows are split into panels as equal as can be, of at most kMaxPanelRows, so
// that no row of a panel is computed in vain.
#pragma once

#include <algorithm>
#include <cstdint>

#include "vector.h"

namespace evometa {

constexpr int kMaxPanelRows = 6;
constexpr int kStripVectors = 2;

template <class S>
constexpr int64_t strip_width() {
  return kStripVectors * VectorOf<S>::width;
}

// Calls visit(first row, number of rows) for every panel.
template <class Visit>
EVOMETA_INLINE void for_each_panel(int64_t rows, Visit visit) {
  const int64_t n_panels = (rows + kMaxPanelRows - 1) / kMaxPanelRows;
  for (int64_t panel = 0, first = 0; panel < n_panels; ++panel) {
    const int64_t size = rows / n_panels + (panel < rows % n_panels ? 1 : 0);
    visit(first, size);
    first += size;
  }
}

// W (rows × columns, with strides) → the order in which a product reads it.
template <class S>
inline void pack_dense(const S* w, int64_t rows, int64_t columns, int64_t row_stride, int64_t column_stride, S* packed) {
  for_each_panel(rows, [&](int64_t first, int64_t size) {
    for (int64_t k = 0; k < columns; ++k)
      for (int64_t r = first; r < first + size; ++r) *packed++ = w[r * row_stride + k * column_stride];
  });
}

// Packed weights with a factor for each column.
template <class S>
inline void scale_columns(const S* packed, int64_t rows, int64_t columns, const S* factors, S* scaled) {
  for_each_panel(rows, [&](int64_t, int64_t size) {
    for (int64_t k = 0; k < columns; ++k, packed += size, scaled += size)
      for (int64_t r = 0; r < size; ++r) scaled[r] = packed[r] * factors[k];
  });
}

// What a product does besides: it adds to what stands in `out` or starts from a bias (zero if null), and may
// end in a ReLU. NaN passes a ReLU.
enum class Start { bias, out };
enum class End { linear, relu };

template <class S, int kRows, Start kStart, End kEnd>
EVOMETA_INLINE void panel_strip(const S* __restrict packed, int64_t columns, const S* __restrict x, int64_t width,
                                const S* __restrict bias, S* __restrict out) {
  using V = Vector<S>;
  constexpr int w = VectorOf<S>::width;
  V sums[kRows][kStripVectors];
  for (int r = 0; r < kRows; ++r)
    for (int v = 0; v < kStripVectors; ++v) {
      if constexpr (kStart == Start::out)
        sums[r][v] = load(out + r * width + v * w);
      else
        sums[r][v] = splat(bias ? bias[r] : S(0));
    }
#pragma GCC unroll 4
  for (int64_t k = 0; k < columns; ++k) {
    V in[kStripVectors];
    for (int v = 0; v < kStripVectors; ++v) in[v] = in_register(load(x + k * width + v * w));
    for (int r = 0; r < kRows; ++r)
      for (int v = 0; v < kStripVectors; ++v) sums[r][v] += packed[k * kRows + r] * in[v];
  }
  for (int r = 0; r < kRows; ++r)
    for (int v = 0; v < kStripVectors; ++v)
      store(out + r * width + v * w, kEnd == End::relu ? (sums[r][v] < 0 ? V{} : sums[r][v]) : sums[r][v]);
}

template <class S, int kRows, Start kStart, End kEnd>
inline void panel_product(const S* packed, int64_t columns, const S* x, int64_t width, const S* bias, S* out) {
  for (int64_t strip = 0; strip < width; strip += strip_width<S>())
    panel_strip<S, kRows, kStart, kEnd>(packed, columns, x + strip, width, bias, out + strip);
}

// out (rows × width) = W·x + bias, or += W·x; width is a multiple of strip_width().
template <class S, Start kStart, End kEnd>
inline void dense_product(const S* packed, int64_t rows, int64_t columns, const S* x, int64_t width, const S* bias,
                          S* out) {
  for_each_panel(rows, [&](int64_t first, int64_t size) {
    const S* own_bias = bias ? bias + first : nullptr;
    S* own = out + first * width;
    switch (size) {
      case 1: panel_product<S, 1, kStart, kEnd>(packed, columns, x, width, own_bias, own); break;
      case 2: panel_product<S, 2, kStart, kEnd>(packed, columns, x, width, own_bias, own); break;
      case 3: panel_product<S, 3, kStart, kEnd>(packed, columns, x, width, own_bias, own); break;
      case 4: panel_product<S, 4, kStart, kEnd>(packed, columns, x, width, own_bias, own); break;
      case 5: panel_product<S, 5, kStart, kEnd>(packed, columns, x, width, own_bias, own); break;
      default: panel_product<S, 6, kStart, kEnd>(packed, columns, x, width, own_bias, own); break;
    }
    packed += size * columns;
  });
}

// lanes += the vectors of a row, lane by lane.
template <class S>
inline void add_lanes(const S* row, int64_t width, S* lanes) {
  Vector<S> sum = load(lanes);
  for (int64_t i = 0; i < width; i += VectorOf<S>::width) sum += load(row + i);
  store(lanes, sum);
}

// lanes += the squares of a row of an even number of vectors, lane by lane.
template <class S>
inline void add_squares(const S* row, int64_t width, S* lanes) {
  constexpr int w = VectorOf<S>::width;
  Vector<S> even{}, odd{};
  for (int64_t i = 0; i < width; i += 2 * w) {
    even += load(row + i) * load(row + i);
    odd += load(row + i + w) * load(row + i + w);
  }
  store(lanes, load(lanes) + (even + odd));
}

// Sums of products lane by lane, sums[r][c][lane] += Σ d[r][i]·x[c][i] over the i of that lane: the gradient of
// a layer's weights, to be summed over its lanes when all blocks are done.
template <class S, int kRows, int kColumns>
EVOMETA_INLINE void outer_tile(const S* d, const S* x, int64_t width, int64_t columns, S* sums) {
  constexpr int w = VectorOf<S>::width;
  Vector<S> own[kRows][kColumns];
  for (int r = 0; r < kRows; ++r)
    for (int c = 0; c < kColumns; ++c) own[r][c] = load(sums + (r * columns + c) * w);
  for (int64_t i = 0; i < width; i += w) {
    Vector<S> left[kRows];
    for (int r = 0; r < kRows; ++r) left[r] = in_register(load(d + r * width + i));
    for (int c = 0; c < kColumns; ++c) {
      const Vector<S> right = in_register(load(x + c * width + i));
      for (int r = 0; r < kRows; ++r) own[r][c] += left[r] * right;
    }
  }
  for (int r = 0; r < kRows; ++r)
    for (int c = 0; c < kColumns; ++c) store(sums + (r * columns + c) * w, own[r][c]);
}

template <class S, int kRows>
inline void outer_rows(const S* d, const S* x, int64_t width, int64_t columns, S* sums) {
  constexpr int w = VectorOf<S>::width;
  int64_t c = 0;
  for (; c + 2 <= columns; c += 2) outer_tile<S, kRows, 2>(d, x + c * width, width, columns, sums + c * w);
  for (; c < columns; ++c) outer_tile<S, kRows, 1>(d, x + c * width, width, columns, sums + c * w);
}

// d has `rows` rows and x has `columns` rows of `width` coordinates.
template <class S>
inline void outer_product(const S* d, int64_t rows, const S* x, int64_t columns, int64_t width, S* sums) {
  constexpr int w = VectorOf<S>::width;
  int64_t r = 0;
  for (; r + 4 <= rows; r += 4) outer_rows<S, 4>(d + r * width, x, width, columns, sums + r * columns * w);
  for (; r < rows; ++r) outer_rows<S, 1>(d + r * width, x, width, columns, sums + r * columns * w);
}

}  // namespace evometa

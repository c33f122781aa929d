// Products of a small weight matrix with a block of coordinates that lies in the first-level cache.
//
//   out[M][B] = bias[M] + W[M][K] · x[K][B]
//
// W is packed once a call into panels of kPanelRows rows, panel by panel and column by column, so that the
// inner loop reads it in order; rows that are missing from the last panel are zero.
#pragma once

#include <cstdint>
#include <vector>

#include "vector.h"

namespace evometa {

constexpr int kPanelRows = 6;
constexpr int kPanelVectors = 2;

template <class S>
constexpr int panel_width() {
  return kPanelVectors * VectorOf<S>::width;
}

constexpr int64_t padded_rows(int64_t rows) { return (rows + kPanelRows - 1) / kPanelRows * kPanelRows; }

// Row-major W (rows × columns, leading dimension `stride`) → panels of size padded_rows(rows) · columns.
template <class S>
inline void pack_panels(const S* w, int64_t rows, int64_t columns, int64_t row_stride, int64_t column_stride, S* packed) {
  for (int64_t panel = 0; panel < rows; panel += kPanelRows)
    for (int64_t k = 0; k < columns; ++k)
      for (int64_t r = 0; r < kPanelRows; ++r)
        *packed++ = panel + r < rows ? w[(panel + r) * row_stride + k * column_stride] : S(0);
}

// One panel times one strip of panel_width() coordinates. x and out have `width` coordinates a row.
template <class S, bool kAccumulate>
EVOMETA_INLINE void panel_times_strip(const S* __restrict packed, int64_t columns, const S* __restrict x, int64_t width,
                                      const S* __restrict bias, int64_t n_rows, S* __restrict out) {
  using V = Vector<S>;
  constexpr int w = VectorOf<S>::width;
  V sums[kPanelRows][kPanelVectors];
  for (int r = 0; r < kPanelRows; ++r)
    for (int v = 0; v < kPanelVectors; ++v) {
      if (kAccumulate)
        sums[r][v] = r < n_rows ? load(out + r * width + v * w) : V{};
      else
        sums[r][v] = splat<S>(bias && r < n_rows ? bias[r] : S(0));
    }
  for (int64_t k = 0; k < columns; ++k) {
    V in[kPanelVectors];
    for (int v = 0; v < kPanelVectors; ++v) in[v] = load(x + k * width + v * w);
    for (int r = 0; r < kPanelRows; ++r) {
      const V weight = splat<S>(packed[k * kPanelRows + r]);
      for (int v = 0; v < kPanelVectors; ++v) sums[r][v] += weight * in[v];
    }
  }
  for (int r = 0; r < kPanelRows; ++r)
    if (r < n_rows)
      for (int v = 0; v < kPanelVectors; ++v) store(out + r * width + v * w, sums[r][v]);
}

// out (rows × width) = bias + W·x, or += W·x; width is a multiple of panel_width().
template <class S, bool kAccumulate = false>
inline void block_product(const S* packed, int64_t rows, int64_t columns, const S* x, int64_t width, const S* bias, S* out) {
  for (int64_t strip = 0; strip < width; strip += panel_width<S>())
    for (int64_t panel = 0; panel < rows; panel += kPanelRows)
      panel_times_strip<S, kAccumulate>(packed + panel * columns, columns, x + strip, width, bias ? bias + panel : nullptr,
                                        rows - panel < kPanelRows ? rows - panel : kPanelRows, out + panel * width + strip);
}

}  // namespace evometa

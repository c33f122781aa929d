// Rows of coordinates in the first-level cache: where blocks lie, and how they come from and go to memory.
#pragma once

#include <cstdint>
#include <cstring>
#include <vector>

#include "vector.h"

namespace evometa {

// Zeros, aligned to cache lines so that no vector straddles two of them.
template <class S>
class Rows {
 public:
  explicit Rows(int64_t size) : memory_(static_cast<std::size_t>(size) + kLine, S(0)) {
    const auto address = reinterpret_cast<std::uintptr_t>(memory_.data());
    start_ = memory_.data() + (kLine - address / sizeof(S) % kLine) % kLine;
  }
  Rows(Rows&&) = default;  // keeps the memory where it is
  Rows(const Rows&) = delete;
  S* data() { return start_; }
  S* row(int64_t index, int64_t width) { return start_ + index * width; }

 private:
  static constexpr std::size_t kLine = 64 / sizeof(S);
  std::vector<S> memory_;
  S* start_;
};

// Rows of a tensor whose coordinates are contiguous; null where the tensor is missing.
template <class S>
struct TensorRows {
  S* first = nullptr;
  int64_t stride = 0;
};

// For known lengths of a few vectors: a call of memcpy costs more than the copying.
template <int64_t kWidth, class S>
EVOMETA_INLINE void copy_row(const S* from, S* to) {
  for (int64_t i = 0; i < kWidth; i += VectorOf<S>::width) store(to + i, load(from + i));
}

// `n_rows` rows of kWidth numbers: `count` of them from memory, zeros behind; all zeros where there is no tensor.
// The block that follows is called for, because no processor's prefetching keeps up with so many rows at a time.
template <int64_t kWidth, class S>
EVOMETA_INLINE void load_rows(TensorRows<const S> from, int64_t start, int64_t count, int64_t n_rows, S* to) {
  for (int64_t row = 0; row < n_rows; ++row, to += kWidth) {
    const S* source = from.first + row * from.stride + start;
    if (from.first && count == kWidth) {
      copy_row<kWidth>(source, to);
      for (int64_t i = kWidth; i < 2 * kWidth; i += 64 / sizeof(S)) __builtin_prefetch(source + i, 0, 2);
      continue;
    }
    std::memset(to, 0, kWidth * sizeof(S));
    if (from.first) std::memcpy(to, source, static_cast<std::size_t>(count) * sizeof(S));
  }
}

template <int64_t kWidth, class S>
EVOMETA_INLINE void store_rows(const S* from, TensorRows<S> to, int64_t start, int64_t count, int64_t n_rows) {
  for (int64_t row = 0; row < n_rows; ++row, from += kWidth) {
    S* target = to.first + row * to.stride + start;
    if (count == kWidth)
      copy_row<kWidth>(from, target);
    else
      std::memcpy(target, from, static_cast<std::size_t>(count) * sizeof(S));
  }
}

}  // namespace evometa

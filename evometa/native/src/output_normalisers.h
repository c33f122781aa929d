// Normalisers of outputs that are divided by their root mean square over each tensor, told by several threads.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "output.h"
#include "threads.h"

namespace evometa {

constexpr int64_t kStretchesAThread = 32;

// Of the outputs of one tensor.
template <class S>
inline S shared_normaliser(const S* outputs, int64_t n) {
  const int64_t n_stretches = (n + kStretch<S> - 1) / kStretch<S>;
  const double squares = ordered_sum(n_stretches, kStretchesAThread, [=](int64_t i) {
    const S* const own = outputs + i * kStretch<S>;
    return inner_product(own, own, std::min(kStretch<S>, n - i * kStretch<S>));
  });
  return normaliser_of<S>(squares, n);
}

// Of the tensors of several tasks, which stand one after the other.
template <class S>
class OutputNormalisers {
 public:
  OutputNormalisers(const std::vector<int64_t>& sizes, int64_t n_tasks) {
    for (int64_t task = 0; task < n_tasks; ++task)
      for (const int64_t size : sizes) ends_.push_back((ends_.empty() ? 0 : ends_.back()) + size);
    scales_.resize(ends_.size());
  }

  void measure(const S* outputs) {
    int64_t start = 0;
    for (std::size_t i = 0; i < ends_.size(); ++i) {
      scales_[i] = shared_normaliser(outputs + start, ends_[i] - start);
      start = ends_[i];
    }
  }

  // Normalises `count` outputs, the first of which is number `start` of all.
  void apply(int64_t start, int64_t count, S* outputs) const {
    auto tensor = static_cast<std::size_t>(std::upper_bound(ends_.begin(), ends_.end(), start) - ends_.begin());
    for (int64_t i = 0; i < count; ++tensor)
      for (const int64_t stop = std::min(count, ends_[tensor] - start); i < stop; ++i) outputs[i] *= scales_[tensor];
  }

 private:
  std::vector<int64_t> ends_;
  std::vector<S> scales_;
};

}  // namespace evometa

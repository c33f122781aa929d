// Work shared among PyTorch's own threads, as many as torch.set_num_threads() allows.
#pragma once

#include <ATen/Parallel.h>
#include <ATen/TensorIterator.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

namespace evometa {

// Threads that may work side by side from here on: one alone within work that is shared already.
inline int64_t n_threads() { return at::in_parallel_region() ? 1 : at::get_num_threads(); }

// Calls body(begin, end) for stretches that make up [0, n), one a thread; for [0, n) itself where that is not more
// than `grain`.
//
// at::parallel_for does nothing in parallel unless the library that calls it is compiled with OpenMP, and linked with
// the very runtime that PyTorch has loaded. The loop of a TensorIterator is compiled in PyTorch: over a tensor of n
// bytes, whose memory is never touched, addresses tell the numbers.
template <class Body>
void share(int64_t n, int64_t grain, const Body& body) {
  if (n == 0) return;
  if (n <= grain || n_threads() == 1) return body(int64_t(0), n);
  const at::Tensor bytes = at::empty({n}, at::kByte);
  const char* const first = static_cast<const char*>(bytes.const_data_ptr());
  const auto stretch = [&](char** data, const int64_t*, int64_t size, int64_t) { body(data[0] - first, data[0] - first + size); };
  at::TensorIterator::borrowing_nullary_op(bytes).for_each(at::TensorIterator::loop2d_t(stretch), grain);
}

// Σ part(i) for i in [0, n), added up in that order whatever the number of threads.
template <class Part>
double ordered_sum(int64_t n, int64_t grain, const Part& part) {
  double total = 0;
  if (n <= grain || n_threads() == 1) {
    for (int64_t i = 0; i < n; ++i) total += part(i);
    return total;
  }
  std::vector<double> parts(static_cast<std::size_t>(n));
  share(n, grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) parts[static_cast<std::size_t>(i)] = part(i);
  });
  for (const double own : parts) total += own;
  return total;
}

// A T for each thread, made where it is first asked for.
template <class T>
class PerThread {
 public:
  PerThread() : slots_(static_cast<std::size_t>(n_threads())) {}
  template <class Make>
  T& own(const Make& make) {
    auto& slot = slots_[slots_.size() == 1 ? 0 : static_cast<std::size_t>(at::get_thread_num())];
    if (!slot) slot = make();
    return *slot;
  }

 private:
  std::vector<std::unique_ptr<T>> slots_;
};

}  // namespace evometa

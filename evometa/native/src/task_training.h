// Tasks as a training of many steps meets them: one minibatch after another, gathered from rows that tasks share.
//
// The operators *_train take part in this: x (rows, inputs) and y (rows) or (rows, outputs) are all data, batches (T, K, B) the rows
// of each task's minibatch at each of K steps, and losses (K, P, T) receive what every run starts a step with.
#pragma once

#include <algorithm>
#include <cmath>

#include "perceptron_arguments.h"

namespace evometa {

struct TaskArguments {
  const Tensor &x, &y, &batches;
  at::IntArrayRef sizes;
  c10::string_view activation, target;
};

template <class S>
class TrainingTasks {
 public:
  // params is (P, T, N).
  TrainingTasks(const TaskArguments& given, const Tensor& params, const Tensor& losses)
      : given_(given),
        network_(read_network<S>(given.sizes, given.activation, given.target)),
        batch_(checked_rows(given.batches), network_.sizes.front(), network_.n_targets()),
        perceptron_(network_, batch_.block_rows),
        losses_(losses.data_ptr<S>()) {
    check_data(network_, given.x, given.y);
    TORCH_CHECK(params.dim() == 3 && params.is_contiguous() && params.size(2) == network_.n_params(),
                "params must be (P, T, ", network_.n_params(), ")");
    n_candidates_ = params.size(0), n_tasks_ = params.size(1), n_steps_ = given.batches.size(1);
    TORCH_CHECK(given.batches.size(0) == n_tasks_ && n_steps_ >= 1, "batches must be (T, K, B) of at least one step");
    TORCH_CHECK(losses.sizes() == at::IntArrayRef({n_steps_, n_candidates_, n_tasks_}) && losses.is_contiguous() &&
                    losses.scalar_type() == params.scalar_type(),
                "losses must be (K, P, T)");
    check_rows();
  }
  TrainingTasks(const TrainingTasks&) = delete;  // the perceptron refers to the network

  int64_t n_candidates() const { return n_candidates_; }
  int64_t n_tasks() const { return n_tasks_; }
  int64_t n_steps() const { return n_steps_; }

  // Turns to the minibatch of a task at a step.
  void turn_to(int64_t task, int64_t step) {
    task_ = task, step_ = step;
    fill(batch_, network_.head, given_.x, given_.y, 0, rows(task, step));
  }

  // Notes and returns the loss of a candidate's run on the minibatch and writes its gradient; both are (N).
  S loss_and_grad(int64_t candidate, const S* params, S* grads) {
    const S loss = perceptron_.loss_and_grad(params, batch_, grads);
    losses_[(step_ * n_candidates_ + candidate) * n_tasks_ + task_] = loss;
    return loss;
  }

 private:
  static int64_t checked_rows(const Tensor& batches) {
    TORCH_CHECK(batches.dim() == 3 && batches.size(2) >= 1 && batches.stride(2) == 1 && batches.is_cpu() &&
                    batches.scalar_type() == at::kLong,
                "batches must be (T, K, B) numbers of rows");
    return batches.size(2);
  }
  const int64_t* rows(int64_t task, int64_t step) const {
    const Tensor& batches = given_.batches;
    return batches.const_data_ptr<int64_t>() + task * batches.stride(0) + step * batches.stride(1);
  }
  void check_rows() const {
    const int64_t n = given_.y.size(0);
    for (int64_t task = 0; task < n_tasks_; ++task)
      for (int64_t step = 0; step < n_steps_; ++step) {
        const auto [least, most] = std::minmax_element(rows(task, step), rows(task, step) + batch_.n_rows);
        TORCH_CHECK(*least >= 0 && *most < n, "a batch has a row that is not there");
      }
  }

  TaskArguments given_;
  PerceptronShape<S> network_;
  Batch<S> batch_;
  Perceptron<S> perceptron_;
  S* losses_;
  int64_t n_candidates_, n_tasks_, n_steps_;
  int64_t task_ = 0, step_ = 0;
};

// The feature "loss" of a run: log(L/L₀)/10, where L₀ is the first positive loss, which `initial` keeps (0 before).
// evometa/rules/feature_table.py and signals.py define it.
template <class S>
S loss_channel(S loss, S& initial) {
  constexpr S kMostRatio = S(1e10);  // signals.MAX_LOSS_RATIO
  if (initial == S(0) && loss > S(0) && std::isfinite(loss)) initial = loss;
  const S ratio = loss / (initial > S(0) ? initial : S(1));
  if (std::isnan(ratio)) return ratio;
  return std::log(std::min(std::max(ratio, S(1) / kMostRatio), kMostRatio)) / S(10);
}

// How many candidates are trained side by side, each of whose runs has `n` numbers: as many as leave them in the
// second-level cache, for they share the gathering of every minibatch.
inline int64_t candidates_side_by_side(int64_t n_candidates, int64_t n) {
  constexpr int64_t kNumbers = 1 << 17;
  return std::clamp<int64_t>(kNumbers / std::max<int64_t>(n, 1), 1, n_candidates);
}

}  // namespace evometa

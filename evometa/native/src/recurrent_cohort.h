// The tensors of a cohort of recurrent rules as pointers, once their shapes are known to be right.
//
// Lists that Python writes. spec: cell, layers, hidden units, the three numbers of the output stage, the momentum
// that a nominal Adam divides (or −1), number of tensors and their sizes (none unless outputs are normalised),
// then a FeatureProgram. numbers: a FeatureProgram's. Tensors: factor (P, 1 or T); tasks (C, P, T) and steps (C), the
// features of tasks and of the step; hyper lr, magnitude_scale, nominal_lr and nominal_gradient (P), missing where
// the structure has none; weights of each layer input (of features of coordinates, tasks, the step), recurrent, bias and, for a GRU,
// recurrent_bias, then the last layer's weight and bias; statistics the momenta and the second moment; carried the
// hidden states of all layers, then their memories.
#pragma once

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <optional>
#include <tuple>
#include <type_traits>
#include <vector>

#include "recurrent_sweep.h"

namespace evometa {

using at::Tensor;
using OptionalTensors = c10::List<std::optional<Tensor>>;

enum class CellKind : int64_t { vanilla, gru, lstm };  // in the order of evometa/rules/cells.py

struct RecurrentArguments {
  at::IntArrayRef spec;
  at::ArrayRef<double> numbers;
  const Tensor &grads, &params, &factor;
  const std::optional<Tensor> &tasks, &steps;
  const OptionalTensors& hyper;
  at::TensorList weights, statistics, carried;
};

inline void check(const Tensor& tensor, const Tensor& like, at::IntArrayRef sizes, const char* name) {
  TORCH_CHECK(tensor.device().is_cpu() && tensor.scalar_type() == like.scalar_type() && tensor.is_contiguous() &&
                  tensor.sizes() == sizes,
              "evometa kernel: ", name, " must be contiguous, ", like.scalar_type(), " and of shape ", sizes, ", not ",
              tensor.scalar_type(), " of shape ", tensor.sizes());
}

template <class S>
class RecurrentCohort {
 public:
  explicit RecurrentCohort(const RecurrentArguments& arguments) : arguments_(arguments), program_(read(arguments)) {
    const Tensor& grads = arguments.grads;
    check(arguments.params, grads, grads.sizes(), "params");
    for (std::size_t i = 0; i < 4; ++i) hyper_.push_back(read_hyper(i));
    check_factor(arguments.factor, "factor");
    factor_ = pointer<const S>(arguments.factor);
    check_statistics(arguments.statistics);
    check_carried(arguments.carried);
    check_weights(arguments.weights);
  }

  // Turns to another step with its numbers, channels of the step and factors, shaped like those given at first.
  void turn_to(at::ArrayRef<double> numbers, const S* step_channels, const S* factor) {
    arguments_.numbers = numbers;
    program_ = read(arguments_);
    std::copy_n(step_channels, program_.step_channels.size(), program_.step_channels.begin());
    factor_ = factor;
  }

  const RecurrentProgram<S>& program() const { return program_; }
  CellKind cell() const { return cell_; }
  int64_t n_candidates() const { return arguments_.grads.size(0); }

  void check_factor(const Tensor& factor, const char* name) const {
    TORCH_CHECK(factor.dim() == 2 && (factor.size(1) == 1 || factor.size(1) == program_.n_tasks), "evometa kernel: ", name,
                " must be (P, 1) or (P, T)");
    check(factor, arguments_.grads, {n_candidates(), factor.size(1)}, name);
  }
  void check_statistics(at::TensorList statistics) const {
    const std::size_t expected = program_.features.momenta.size() + (program_.features.has_second_moment ? 1 : 0);
    TORCH_CHECK(statistics.size() == expected, "evometa kernel: ", expected, " statistics expected");
    for (const Tensor& tensor : statistics) check(tensor, arguments_.grads, arguments_.grads.sizes(), "a statistic");
  }
  void check_carried(at::TensorList carried) const {
    TORCH_CHECK(static_cast<int64_t>(carried.size()) == n_carried(), "evometa kernel: ", n_carried(), " carried tensors expected");
    for (const Tensor& tensor : carried) check(tensor, arguments_.grads, carried_sizes(), "a carried tensor");
  }
  void check_weights(at::TensorList weights) const {
    const int64_t hidden = program_.n_hidden, n_outputs = program_.stage.n_outputs(), p = n_candidates();
    const int64_t n_first = program_.n_inputs() + static_cast<int64_t>(program_.step_channels.size());
    const int64_t rows = hidden * (cell_ == CellKind::vanilla ? 1 : cell_ == CellKind::gru ? 3 : 4);
    TORCH_CHECK(static_cast<int64_t>(weights.size()) == program_.n_layers * per_layer() + 2, "evometa kernel: wrong number of weights");
    for (int64_t layer = 0; layer < program_.n_layers; ++layer) {
      const Tensor* own = &weights[static_cast<std::size_t>(layer * per_layer())];
      check(own[0], arguments_.grads, {p, rows, layer ? hidden : n_first}, "input");
      check(own[1], arguments_.grads, {p, rows, hidden}, "recurrent");
      check(own[2], arguments_.grads, {p, rows}, "bias");
      if (cell_ == CellKind::gru) check(own[3], arguments_.grads, {p, hidden}, "recurrent_bias");
    }
    check(weights[weights.size() - 2], arguments_.grads, {p, n_outputs, hidden}, "output.weight");
    check(weights[weights.size() - 1], arguments_.grads, {p, n_outputs}, "output.bias");
  }
  int64_t n_carried() const { return program_.n_layers * (cell_ == CellKind::lstm ? 2 : 1); }
  std::vector<int64_t> carried_sizes() const {
    return {n_candidates(), program_.n_hidden, program_.n_tasks, program_.n_coordinates};
  }

  RecurrentCandidate<S> candidate(int64_t p) const {
    const auto own = static_cast<std::size_t>(p);
    const auto& features = program_.features;
    OutputNumbers<S> output{hyper_[0][own], hyper_[1][own], hyper_[2][own], hyper_[3][own], S(1), features.second_moment.correction};
    if (program_.adam_momentum != kNone)
      output.momentum_correction = features.momenta[static_cast<std::size_t>(program_.adam_momentum)].correction;
    RecurrentCandidate<S> result{weights<const S>(arguments_.weights, p),
                                 output,
                                 of<const S>(arguments_.grads, p),
                                 state<const S>(arguments_.params, arguments_.statistics, arguments_.carried, p),
                                 {factor_ + p * arguments_.factor.size(1), arguments_.factor.size(1) == 1 ? 0 : 1},
                                 {}};
    for (int64_t channel = 0; channel < program_.n_task_channels; ++channel)
      result.task_channels.push_back(
          {arguments_.tasks->template const_data_ptr<S>() + (channel * n_candidates() + p) * program_.n_tasks, 1});
    return result;
  }

  // The part of candidate p of a tensor (P, …).
  template <class T>
  T* of(const Tensor& tensor, int64_t p) const {
    return pointer<T>(tensor) + p * (tensor.numel() / n_candidates());
  }
  template <class T>
  T* of(const std::optional<Tensor>& tensor, int64_t p) const {
    return tensor ? of<T>(*tensor, p) : nullptr;
  }

  template <class T, class Carried>
  RecurrentState<T> state(const Tensor& params, at::TensorList statistics, const Carried& carried, int64_t p) const {
    RecurrentState<T> result{of<T>(params, p), {}, nullptr, {}, {}};
    const std::size_t n_momenta = program_.features.momenta.size();
    for (std::size_t i = 0; i < statistics.size(); ++i)
      (i < n_momenta ? result.momenta.emplace_back() : result.second_moment) = of<T>(statistics[i], p);
    add_carried(carried, p, result);
    return result;
  }
  template <class T, class Carried>
  void add_carried(const Carried& carried, int64_t p, RecurrentState<T>& to) const {
    for (std::size_t i = 0; i < carried.size(); ++i)
      (static_cast<int64_t>(i) < program_.n_layers ? to.hidden : to.memory).push_back(of<T>(carried[i], p));
  }

  template <class T>
  RecurrentWeights<T> weights(at::TensorList tensors, int64_t p) const {
    RecurrentWeights<T> result{{}, of<T>(tensors[tensors.size() - 2], p), of<T>(tensors[tensors.size() - 1], p)};
    for (int64_t layer = 0; layer < program_.n_layers; ++layer) {
      const Tensor* own = &tensors[static_cast<std::size_t>(layer * per_layer())];
      result.layers.push_back({of<T>(own[0], p), of<T>(own[1], p), of<T>(own[2], p),
                               cell_ == CellKind::gru ? of<T>(own[3], p) : nullptr});
    }
    return result;
  }

 private:
  template <class T>
  static T* pointer(const Tensor& tensor) {
    if constexpr (std::is_const_v<T>)
      return tensor.const_data_ptr<std::remove_const_t<T>>();
    else
      return tensor.mutable_data_ptr<T>();
  }
  // One number a candidate, whatever the stride; zeros where the tensor is missing.
  std::vector<S> read_hyper(std::size_t index) const {
    const int64_t n = n_candidates();
    std::vector<S> numbers(static_cast<std::size_t>(n), S(0));
    TORCH_CHECK(arguments_.hyper.size() == 4, "evometa kernel: four hyper expected");
    const std::optional<Tensor> tensor = arguments_.hyper.get(index);
    if (!tensor) return numbers;
    TORCH_CHECK(tensor->dim() == 1 && tensor->size(0) == n && tensor->scalar_type() == arguments_.grads.scalar_type(),
                "evometa kernel: hyper must be (P,) and of the type of the gradients");
    for (int64_t p = 0; p < n; ++p) numbers[static_cast<std::size_t>(p)] = tensor->template const_data_ptr<S>()[p * tensor->stride(0)];
    return numbers;
  }
  int64_t per_layer() const { return cell_ == CellKind::gru ? 4 : 3; }

  RecurrentProgram<S> read(const RecurrentArguments& arguments) {
    TORCH_CHECK(arguments.grads.dim() == 3 && arguments.grads.numel() > 0, "evometa kernel: grads must be (P, T, N), not empty");
    const Tensor& grads = arguments.grads;
    check(grads, grads, grads.sizes(), "grads");
    const auto& [tasks, steps] = std::tie(arguments.tasks, arguments.steps);
    if (tasks) check(*tasks, grads, {tasks->size(0), grads.size(0), grads.size(1)}, "tasks");
    if (steps) check(*steps, grads, {steps->size(0)}, "steps");
    Reader<int64_t> spec(arguments.spec.begin(), arguments.spec.end());
    Reader<double> numbers(arguments.numbers.begin(), arguments.numbers.end());
    const int64_t cell = spec.next(), n_layers = spec.next(), n_hidden = spec.next();
    const OutputStage stage = OutputStage::read(spec);
    const int64_t adam_momentum = spec.next();
    std::vector<int64_t> sizes(static_cast<std::size_t>(std::clamp<int64_t>(spec.next(), 0, arguments.grads.size(2))));
    int64_t total = 0;
    for (int64_t& size : sizes) total += size = spec.next();
    RecurrentProgram<S> program{FeatureProgram<S>(spec, numbers, 0), stage, adam_momentum, n_layers, n_hidden,
                                tasks ? tasks->size(0) : 0, grads.size(1), grads.size(2), sizes, {}};
    TORCH_CHECK(spec.done() && numbers.done(), "evometa kernel: a list of numbers is too long");
    if (steps) program.step_channels.assign(steps->template const_data_ptr<S>(), steps->template const_data_ptr<S>() + steps->numel());
    TORCH_CHECK(cell >= 0 && cell <= 2 && n_layers >= 1 && n_hidden >= 1, "evometa kernel: unknown structure");
    TORCH_CHECK(stage.nominal != Nominal::adam || (adam_momentum >= 0 && adam_momentum < static_cast<int64_t>(program.features.momenta.size()) &&
                                                   program.features.has_second_moment),
                "evometa kernel: a nominal Adam needs its averages");
    TORCH_CHECK(!stage.normalised() || (total == program.n_coordinates && *std::min_element(sizes.begin(), sizes.end()) > 0),
                "evometa kernel: sizes of tensors must sum to N");
    cell_ = static_cast<CellKind>(cell);
    return program;
  }

  RecurrentArguments arguments_;
  CellKind cell_ = CellKind::vanilla;  // before the program, whose reader sets it
  RecurrentProgram<S> program_;
  const S* factor_;
  std::vector<std::vector<S>> hyper_;
};

}  // namespace evometa

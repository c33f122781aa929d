// The tensors and lists of numbers that the operators of mlp_rule.cpp are called with, checked and taken apart.
//
// Shapes, with P candidates, T tasks, N coordinates, H hidden units, C inputs of the first layer:
//   grads, params (P, T, N); factor (P, T or 1); task (P, T, its channels); normalisers (P, T, tensors, channels
//   within a tensor). `weights` are those of the first layer (P, H, C), its bias (P, H), then weight (P, rows, H)
//   and bias (P, rows) of every layer above; `hyper` are lr, magnitude_scale, nominal_lr and nominal_gradient,
//   (P) each. Statistics come in the order momenta, second moment, row moments, column moments; numbers in the order
//   in which read_program() asks for them.
#pragma once

#include <ATen/core/Tensor.h>

#include "mlp_pass.h"

namespace evometa {

using at::Tensor;

template <class S>
MlpProgram<S> read_program(const Tensor& spec_list, at::ArrayRef<double> number_list) {
  TORCH_CHECK(spec_list.is_cpu() && spec_list.is_contiguous() && spec_list.scalar_type() == at::kLong,
              "mlp_rule: spec is ", spec_list.toString(), ", expected a contiguous list of integers");
  Reader<int64_t> spec(spec_list.data_ptr<int64_t>(), spec_list.data_ptr<int64_t>() + spec_list.numel());
  Reader<double> numbers(number_list.begin(), number_list.end());
  const int64_t n_layers = spec.next(), n_hidden = spec.next();
  const OutputStage output = OutputStage::read(spec);
  const int64_t output_momentum = spec.next(), n_step = spec.next(), n_task = spec.next();
  std::vector<Matrix> tensors;
  Matrix end{};
  for (int64_t n_tensors = spec.next(); n_tensors > 0; --n_tensors) {
    end.n_rows = spec.next();
    end.n_columns = spec.next();
    TORCH_CHECK(end.n_rows > 0 && end.n_columns > 0, "mlp_rule: a tensor without coordinates");
    tensors.push_back(end);
    end.offset += end.size();
    end.row_offset += end.n_rows;
    end.column_offset += end.n_columns;
  }
  LineProgram<S> lines(spec, numbers);
  FeatureProgram<S> features(spec, numbers, static_cast<int64_t>(lines.factored.size()));
  std::vector<S> step_channels;
  for (int64_t c = 0; c < n_step; ++c) step_channels.push_back(static_cast<S>(numbers.next()));
  TORCH_CHECK(spec.done() && numbers.done(), "mlp_rule: a list of numbers is too long");
  TORCH_CHECK(n_layers > 0 && n_hidden > 0, "mlp_rule: ", n_layers, " layers of ", n_hidden, " units");
  const int64_t n_momenta = static_cast<int64_t>(features.momenta.size());
  for (const auto size : {features.momenta.size(), lines.rows.moments.size(), lines.columns.moments.size(), lines.factored.size()})
    TORCH_CHECK(static_cast<int64_t>(size) <= kMaxMoments, "mlp_rule: more than ", kMaxMoments, " decays");
  const bool adam = output.nominal == Nominal::adam;
  TORCH_CHECK(!adam || (output_momentum >= 0 && output_momentum < n_momenta && features.has_second_moment),
              "mlp_rule: the nominal step reads statistics that are not kept");
  const int64_t n_lines = static_cast<int64_t>(lines.rows.features.size() + lines.columns.features.size());
  const int64_t n_within = features.n_channels + n_lines;
  const NetworkShape network{n_layers, n_hidden, output.n_outputs(), features.n_channels, n_within, n_within + n_step + n_task};
  return {network, output, adam ? output_momentum : kNone, tensors, features, lines, step_channels};
}

// The memory of a tensor, after a check that it is what the kernel takes it for.
template <class S>
S* memory(const Tensor& tensor, at::IntArrayRef sizes, const char* name) {
  TORCH_CHECK(tensor.sizes() == sizes && tensor.is_contiguous() && tensor.scalar_type() == c10::CppTypeToScalarType<S>::value &&
                  tensor.is_cpu(),
              "mlp_rule: ", name, " is ", tensor.toString(), " ", tensor.sizes(), ", expected contiguous ", sizes,
              " of the params' type");
  return tensor.data_ptr<S>();
}

// What the forward and the backward operator take alike.
struct Arguments {
  const Tensor& grads;
  const Tensor& params;
  at::TensorList after;
  at::TensorList weights;
  at::TensorList hyper;
  const Tensor& factor;
  const Tensor& task;
  const Tensor& normalisers;
};

// Addresses within the tensors of a cohort.
template <class S>
class Cohort {
 public:
  Cohort(const MlpProgram<S>& program, const Arguments& arguments) : program_(program), end_{} {
    TORCH_CHECK(arguments.params.dim() == 3 && arguments.factor.dim() == 2,
                "mlp_rule: params or factor have a wrong number of axes");
    if (!program.tensors.empty()) {
      const Matrix last = program.tensors.back();
      end_ = {0, 0, last.offset + last.size(), last.row_offset + last.n_rows, last.column_offset + last.n_columns};
    }
    n_candidates = arguments.params.size(0);
    n_tasks = arguments.params.size(1);
    shared_factor_ = arguments.factor.size(1) == 1;
    run_.params = coordinates(arguments.params, "params");
    run_.grads = coordinates(arguments.grads, "grads");
    run_.after = statistics(arguments.after);
    run_.normalisers = memory<S>(
        arguments.normalisers, {n_candidates, n_tasks, n_tensors(), program.network.n_within}, "normalisers");
    run_.task = memory<S>(arguments.task, {n_candidates, n_tasks, n_task_channels()}, "task");
    factor_ = memory<S>(arguments.factor, {n_candidates, shared_factor_ ? 1 : n_tasks}, "factor");
    TORCH_CHECK(arguments.hyper.size() == 4, "mlp_rule: wrong number of continuous genes");
    for (int64_t i = 0; i < 4; ++i) hyper_[i] = memory<S>(arguments.hyper[i], {n_candidates}, "a continuous gene");
    weights_ = weights(arguments.weights);
  }

  int64_t n_candidates, n_tasks;

  int64_t n_coordinates() const { return end_.offset; }
  int64_t n_first() const { return program_.network.n_hidden * program_.network.n_inputs; }
  int64_t n_tensors() const { return static_cast<int64_t>(program_.tensors.size()); }

  S* coordinates(const Tensor& tensor, const char* name) const {
    return memory<S>(tensor, {n_candidates, n_tasks, end_.offset}, name);
  }

  Statistics<S> statistics(at::TensorList tensors) const {
    const std::size_t n_momenta = program_.features.momenta.size(), n_second = program_.features.has_second_moment;
    const std::size_t n_rows = program_.lines.rows.moments.size(), n_columns = program_.lines.columns.moments.size();
    TORCH_CHECK(tensors.size() == n_momenta + n_second + n_rows + n_columns, "mlp_rule: wrong number of statistics");
    Statistics<S> result{};
    const Tensor* next = tensors.begin();
    for (std::size_t m = 0; m < n_momenta; ++m) result.momenta[m] = coordinates(*next++, "momentum");
    if (n_second) result.second_moment = coordinates(*next++, "second moment");
    for (std::size_t m = 0; m < n_rows; ++m)
      result.row_moments[m] = memory<S>(*next++, {n_candidates, n_tasks, end_.row_offset}, "row moment");
    for (std::size_t m = 0; m < n_columns; ++m)
      result.column_moments[m] = memory<S>(*next++, {n_candidates, n_tasks, end_.column_offset}, "column moment");
    return result;
  }

  // Statistics of one run, from those of the first.
  Statistics<S> of_run(Statistics<S> statistics, int64_t p, int64_t t) const {
    const int64_t run = p * n_tasks + t;
    for (std::size_t m = 0; m < program_.features.momenta.size(); ++m) statistics.momenta[m] += run * end_.offset;
    if (statistics.second_moment) statistics.second_moment += run * end_.offset;
    for (std::size_t m = 0; m < program_.lines.rows.moments.size(); ++m) statistics.row_moments[m] += run * end_.row_offset;
    for (std::size_t m = 0; m < program_.lines.columns.moments.size(); ++m)
      statistics.column_moments[m] += run * end_.column_offset;
    return statistics;
  }

  Run<S> run(int64_t p, int64_t t) const {
    const int64_t index = p * n_tasks + t;
    Run<S> run = run_;
    run.params += index * end_.offset;
    run.grads += index * end_.offset;
    run.after = of_run(run.after, p, t);
    run.first = weights_.first + p * n_first();
    run.bias = weights_.bias + p * program_.network.n_hidden;
    run.task += index * n_task_channels();
    run.factor = factor_[shared_factor_ ? p : index];
    run.normalisers += index * n_tensors() * program_.network.n_within;
    const S momentum = program_.output_momentum == kNone ? S(0) : program_.features.momenta[program_.output_momentum].correction;
    run.output = {hyper_[0][p], hyper_[1][p], hyper_[2][p], hyper_[3][p], momentum, program_.features.second_moment.correction};
    return run;
  }

  NetworkWeights<S> weights(at::TensorList tensors) const {
    const NetworkShape& network = program_.network;
    TORCH_CHECK(static_cast<int64_t>(tensors.size()) == 2 * network.n_layers + 2, "mlp_rule: wrong number of layers");
    const auto weight = [&](int64_t layer, int64_t rows, int64_t columns) {
      return memory<S>(tensors[2 * layer], {n_candidates, rows, columns}, "weight of a layer");
    };
    const auto bias = [&](int64_t layer, int64_t rows) {
      return memory<S>(tensors[2 * layer + 1], {n_candidates, rows}, "bias of a layer");
    };
    NetworkWeights<S> result{weight(0, network.n_hidden, network.n_inputs), bias(0, network.n_hidden), {}, {}};
    for (int64_t u = 0; u < network.n_layers; ++u) {
      result.upper.push_back(weight(u + 1, network.rows(u), network.n_hidden));
      result.biases.push_back(bias(u + 1, network.rows(u)));
    }
    return result;
  }

  // Weights of one candidate, from those of the first.
  NetworkWeights<S> weights_of(NetworkWeights<S> weights, int64_t p) const {
    const NetworkShape& network = program_.network;
    weights.first += p * n_first();
    weights.bias += p * network.n_hidden;
    for (int64_t u = 0; u < network.n_layers; ++u) {
      weights.upper[u] += p * network.rows(u) * network.n_hidden;
      weights.biases[u] += p * network.rows(u);
    }
    return weights;
  }

  PackedWeights<S> packed_weights(int64_t p, bool with_gradients) const {
    const int64_t n_row_channels = static_cast<int64_t>(program_.lines.rows.features.size());
    return {program_.network, n_row_channels, weights_of(weights_, p), with_gradients};
  }

 private:
  int64_t n_task_channels() const {
    return program_.network.n_inputs - program_.network.n_within - static_cast<int64_t>(program_.step_channels.size());
  }

  const MlpProgram<S>& program_;
  Matrix end_;  // its offsets are the numbers of coordinates, rows and columns of a run
  bool shared_factor_;
  Run<S> run_{};
  const S* factor_;
  const S* hyper_[4];
  NetworkWeights<S> weights_;
};

}  // namespace evometa

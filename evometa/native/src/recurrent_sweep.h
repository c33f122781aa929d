// One step of a recurrent rule for all coordinates of one candidate, block after block, forward and backward.
//
// The coordinates of all tasks form one row of R = T·N numbers; what differs between tasks (the schedule's
// factor, features of the task) is spread over a block's rows. A block's data stay in cache from its first
// statistic to its next parameters.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "blocks.h"
#include "coordinate_features.h"
#include "output.h"
#include "output_normalisers.h"
#include "recurrent_network.h"

namespace evometa {

// What all candidates share.
template <class S>
struct RecurrentProgram {
  FeatureProgram<S> features;
  OutputStage stage;
  int64_t adam_momentum;  // which momentum a nominal Adam divides, or kNone
  int64_t n_layers, n_hidden, n_task_channels;
  int64_t n_tasks, n_coordinates;     // T, N
  std::vector<int64_t> tensor_sizes;  // of the N coordinates
  std::vector<S> step_channels;       // inputs that all coordinates of all tasks share

  int64_t n_all() const { return n_tasks * n_coordinates; }
  int64_t n_inputs() const { return features.n_channels + n_task_channels; }
  // The channel that is the parameter itself, or kNone.
  int64_t parameter_channel() const {
    int64_t channel = 0;
    for (const Feature& feature : features.features) {
      if (feature.kind == FeatureKind::parameter) return channel;
      channel += feature.n_channels();
    }
    return kNone;
  }
};

// Per-coordinate tensors of one candidate; T is S or const S. Tensors that are not there are null.
template <class T>
struct RecurrentState {
  T* params;                          // (R)
  std::vector<T*> momenta;            // (R) each
  T* second_moment;                   // (R)
  std::vector<T*> hidden, memory;     // (H, R) of each layer
};

// One number a task, `stride` apart (0 where all tasks share it).
template <class T>
struct TaskNumbers {
  T* first;
  int64_t stride;
};

template <class S>
struct RecurrentCandidate {
  RecurrentWeights<const S> weights;
  OutputNumbers<S> output;
  const S* grads;
  RecurrentState<const S> before;
  TaskNumbers<const S> factor;
  std::vector<TaskNumbers<const S>> task_channels;
};

// Cotangents of the next state of one candidate (null where there are none), and where those of its inputs go.
template <class S>
struct RecurrentCotangents {
  RecurrentState<const S> after;
  RecurrentState<S> before;
  RecurrentWeights<S> weights;
  double* factor;  // (T); null where nobody asks
};

template <class S, class Cell, int64_t kWidth>
class RecurrentSweep {
 public:
  explicit RecurrentSweep(const RecurrentProgram<S>& program)
      : program_(program),
        n_momenta_(static_cast<int64_t>(program.features.momenta.size())),
        network_(program.n_layers, program.n_inputs(), program.n_hidden, program.stage.n_outputs()),
        momenta_(n_momenta_ * kWidth),
        rows_(kRows * kWidth) {
    for (int64_t i = 0; i < n_momenta_; ++i) momentum_rows_.push_back(momenta_.row(i, kWidth));
  }

  // Turns to a candidate's weights, and to the step's channels.
  void begin_candidate(const RecurrentCandidate<S>& candidate) { network_.pack(candidate.weights, program_.step_channels); }

  static constexpr int64_t kBlock = kWidth;  // coordinates

  // Blocks of all coordinates, numbered from 0 on.
  static int64_t n_blocks(const RecurrentProgram<S>& program) { return (program.n_all() + kWidth - 1) / kWidth; }

  // The next state of the blocks from `begin` to `end` goes to `after`, which may be the state before. `outputs` (R)
  // receives outputs that are to be normalised, else it is null.
  void forward(const RecurrentCandidate<S>& candidate, const RecurrentState<S>& after, S* outputs, int64_t begin, int64_t end) {
    for (int64_t start = begin * kWidth; start < std::min(end * kWidth, program_.n_all()); start += kWidth) {
      const int64_t count = std::min(kWidth, program_.n_all() - start);
      observe(candidate, start, count);
      run_network(candidate, start, count);
      store_state(after, start, count);
      if (outputs)
        store_rows<kWidth>(network_.outputs(), {outputs, 0}, start, count, 1);
      else
        store_params(candidate, network_.outputs(), after.params, start, count);
    }
  }

  // The next params of the same blocks from all outputs, where they are normalised by `normalisers`.
  void finish(const RecurrentCandidate<S>& candidate, const RecurrentState<S>& after, const S* outputs,
              const OutputNormalisers<S>& normalisers, int64_t begin, int64_t end) {
    for (int64_t start = begin * kWidth; start < std::min(end * kWidth, program_.n_all()); start += kWidth) {
      const int64_t count = std::min(kWidth, program_.n_all() - start);
      observe_again(candidate, after, start, count);
      load_rows<kWidth, S>({outputs, 0}, start, count, 1, row(output));
      normalisers.apply(start, count, row(output));
      store_params(candidate, row(output), after.params, start, count);
    }
  }

  // `outputs` as forward() left them.
  void backward(const RecurrentCandidate<S>& candidate, const S* outputs, const RecurrentCotangents<S>& cotangents) {
    begin_candidate(candidate);
    network_.pack_backward(candidate.weights, program_.parameter_channel());
    std::vector<S> d_outputs;
    if (outputs) d_outputs = normalised_backward(candidate, outputs, cotangents);
    for (int64_t start = 0; start < program_.n_all(); start += kWidth) {
      const int64_t count = std::min(kWidth, program_.n_all() - start);
      observe(candidate, start, count);
      run_network(candidate, start, count);
      load_rows<kWidth>(whole(cotangents.after.params), start, count, 1, row(d_params));
      if (outputs)
        load_rows<kWidth, S>({d_outputs.data(), 0}, start, count, 1, network_.d_outputs());
      else
        params_backward(candidate, network_.outputs(), start, count, network_.d_outputs(), cotangents.factor);
      for (std::size_t layer = 0; layer < network_.layers().size(); ++layer) {
        load_rows<kWidth>(whole(cotangents.after.hidden[layer]), start, count, program_.n_hidden, network_.d_hidden(layer));
        if (Cell::kMemory)
          load_rows<kWidth>(whole(cotangents.after.memory[layer]), start, count, program_.n_hidden, network_.d_memory(layer));
      }
      network_.backward(row(d_params));
      store_cotangents(cotangents.before, start, count);
    }
    network_.write_gradients(cotangents.weights);
  }

 private:
  enum Row { grads, params, second_moment, root, output, step, factor, d_params, d_step, kRows };

  S* row(Row which) { return rows_.row(which, kWidth); }
  TensorRows<const S> whole(const S* tensor) const { return {tensor, program_.n_all()}; }

  // Gradients, parameters, and the statistics after the step.
  void observe(const RecurrentCandidate<S>& candidate, int64_t start, int64_t count) {
    load_rows<kWidth>(whole(candidate.grads), start, count, 1, row(grads));
    load_rows<kWidth>(whole(candidate.before.params), start, count, 1, row(params));
    for (int64_t i = 0; i < n_momenta_; ++i)
      load_rows<kWidth>(whole(candidate.before.momenta[i]), start, count, 1, momentum_rows_[i]);
    if (program_.features.has_second_moment)
      load_rows<kWidth>(whole(candidate.before.second_moment), start, count, 1, row(second_moment));
    update_statistics(program_.features, row(grads), momentum_rows_.data(), row(second_moment), momentum_rows_.data(),
                      row(second_moment), kWidth);
  }

  // What the output stage reads, once forward() has stored the statistics.
  void observe_again(const RecurrentCandidate<S>& candidate, const RecurrentState<S>& after, int64_t start, int64_t count) {
    load_rows<kWidth>(whole(candidate.grads), start, count, 1, row(grads));
    load_rows<kWidth>(whole(candidate.before.params), start, count, 1, row(params));
    for (int64_t i = 0; i < n_momenta_; ++i)
      load_rows<kWidth>(whole(after.momenta[i]), start, count, 1, momentum_rows_[i]);
    if (program_.features.has_second_moment)
      load_rows<kWidth>(whole(after.second_moment), start, count, 1, row(second_moment));
  }

  void run_network(const RecurrentCandidate<S>& candidate, int64_t start, int64_t count) {
    S* inputs = network_.layers()[0].inputs();
    const CoordinateRows<S> rows{row(grads), row(params), momentum_rows_.data(), row(second_moment), nullptr};
    coordinate_channels(program_.features, rows, kWidth, row(root), inputs);
    for (int64_t i = 0; i < program_.n_task_channels; ++i)
      spread(candidate.task_channels[i], start, count, inputs + (program_.features.n_channels + i) * kWidth);
    for (std::size_t layer = 0; layer < network_.layers().size(); ++layer) {
      auto& own = network_.layers()[layer];
      load_rows<kWidth>(whole(candidate.before.hidden[layer]), start, count, program_.n_hidden, own.hidden_before());
      if (Cell::kMemory)
        load_rows<kWidth>(whole(candidate.before.memory[layer]), start, count, program_.n_hidden, own.memory_before());
    }
    network_.forward();
  }

  void store_state(const RecurrentState<S>& after, int64_t start, int64_t count) {
    const int64_t stride = program_.n_all();
    for (int64_t i = 0; i < n_momenta_; ++i)
      store_rows<kWidth>(momentum_rows_[i], {after.momenta[i], 0}, start, count, 1);
    if (program_.features.has_second_moment)
      store_rows<kWidth>(row(second_moment), {after.second_moment, 0}, start, count, 1);
    for (std::size_t layer = 0; layer < network_.layers().size(); ++layer) {
      store_rows<kWidth>(network_.hidden(layer), {after.hidden[layer], stride}, start, count, program_.n_hidden);
      if (Cell::kMemory)
        store_rows<kWidth>(network_.layers()[layer].memory(), {after.memory[layer], stride}, start, count, program_.n_hidden);
    }
  }

  OutputRows<S> output_rows(const S* outputs) {
    return {outputs, row(grads), program_.adam_momentum == kNone ? nullptr : momentum_rows_[program_.adam_momentum],
            row(second_moment)};
  }

  void store_params(const RecurrentCandidate<S>& candidate, const S* outputs, S* to, int64_t start, int64_t count) {
    steps(program_.stage, candidate.output, output_rows(outputs), kWidth, row(step));
    spread(candidate.factor, start, count, row(factor));
    for (int64_t i = 0; i < kWidth; i += VectorOf<S>::width)
      store(row(params) + i, load(row(params) + i) + load(row(factor) + i) * load(row(step) + i));
    store_rows<kWidth>(row(params), {to, 0}, start, count, 1);
  }

  // From the cotangents of the next params to those of a block's (normalised) outputs and of the factor.
  void params_backward(const RecurrentCandidate<S>& candidate, const S* outputs, int64_t start, int64_t count,
                       S* d_outputs, double* d_factor) {
    spread(candidate.factor, start, count, row(factor));
    for (int64_t i = 0; i < kWidth; i += VectorOf<S>::width)
      store(row(d_step) + i, load(row(factor) + i) * load(row(d_params) + i));
    steps_backward(program_.stage, candidate.output, output_rows(outputs), kWidth, row(d_step), d_outputs);
    if (!d_factor) return;
    steps(program_.stage, candidate.output, output_rows(outputs), kWidth, row(step));
    for (int64_t i = 0; i < count; ++i)
      d_factor[(start + i) / program_.n_coordinates] += static_cast<double>(row(step)[i]) * static_cast<double>(row(d_params)[i]);
  }

  // One task's outputs, each tensor normalised, in normalised_; and the factors in scales_.
  void normalise_task(const S* outputs, int64_t task) {
    normalised_.assign(outputs + task * program_.n_coordinates, outputs + (task + 1) * program_.n_coordinates);
    scales_.clear();
    S* tensor = normalised_.data();
    for (const int64_t size : program_.tensor_sizes) {
      scales_.push_back(normalise(tensor, size));
      tensor += size;
    }
  }

  // Cotangents of the outputs before they are normalised (R).
  std::vector<S> normalised_backward(const RecurrentCandidate<S>& candidate, const S* outputs,
                                     const RecurrentCotangents<S>& cotangents) {
    std::vector<S> d_outputs(static_cast<std::size_t>(program_.n_all()));
    for (int64_t task = 0; task < program_.n_tasks; ++task) {
      normalise_task(outputs, task);
      for (int64_t start = 0; start < program_.n_coordinates; start += kWidth) {
        const int64_t count = std::min(kWidth, program_.n_coordinates - start);
        const int64_t place = task * program_.n_coordinates + start;
        observe(candidate, place, count);
        load_rows<kWidth>(whole(cotangents.after.params), place, count, 1, row(d_params));
        load_rows<kWidth, S>({normalised_.data(), 0}, start, count, 1, row(output));
        params_backward(candidate, row(output), place, count, network_.d_outputs(), cotangents.factor);
        store_rows<kWidth, S>(network_.d_outputs(), {d_outputs.data(), 0}, place, count, 1);
      }
      const S* tensor = normalised_.data();
      S* d_tensor = d_outputs.data() + task * program_.n_coordinates;
      for (std::size_t i = 0; i < scales_.size(); ++i) {
        normalise_backward(tensor, scales_[i], program_.tensor_sizes[i], d_tensor);
        tensor += program_.tensor_sizes[i];
        d_tensor += program_.tensor_sizes[i];
      }
    }
    return d_outputs;
  }

  void store_cotangents(const RecurrentState<S>& to, int64_t start, int64_t count) {
    const int64_t stride = program_.n_all();
    store_rows<kWidth>(row(d_params), {to.params, 0}, start, count, 1);
    for (std::size_t layer = 0; layer < network_.layers().size(); ++layer) {
      store_rows<kWidth>(network_.d_hidden_before(layer), {to.hidden[layer], stride}, start, count, program_.n_hidden);
      if (Cell::kMemory)
        store_rows<kWidth>(network_.d_memory(layer), {to.memory[layer], stride}, start, count, program_.n_hidden);
    }
  }

  // A number of each coordinate's task.
  void spread(TaskNumbers<const S> numbers, int64_t start, int64_t count, S* to) const {
    for (int64_t i = 0; i < count;) {
      const int64_t task = (start + i) / program_.n_coordinates;
      const int64_t stop = numbers.stride ? std::min(count, (task + 1) * program_.n_coordinates - start) : count;
      std::fill(to + i, to + stop, numbers.first[task * numbers.stride]);
      i = stop;
    }
    std::fill(to + count, to + kWidth, S(0));
  }

  const RecurrentProgram<S>& program_;
  int64_t n_momenta_;
  RecurrentNetwork<S, Cell, kWidth> network_;
  Rows<S> momenta_, rows_;
  std::vector<S*> momentum_rows_;
  std::vector<S> normalised_, scales_;
};

}  // namespace evometa

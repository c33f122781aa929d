// The backward pass of an MLP rule's step: cotangents of its weights, of the params and of the schedule's factor.
//
// Gradients and the statistics kept of them are constants. Params count as what is updated and as a channel,
// which is normalised by its own root mean square.
#pragma once

#include "mlp_pass.h"

namespace evometa {

// Where the cotangents of one run lie; those of weights and biases add up over runs.
template <class S>
struct RunCotangents {
  const S* params_after;  // given
  S* params;
  S* first;  // (n_hidden, n_inputs)
  S* bias;   // (n_hidden)
  S* factor;
};

template <class S>
class MlpBackward : private MlpPass<S> {
  using Base = MlpPass<S>;
  using Base::kLanes, Base::lines_, Base::network_, Base::normalisers_, Base::program_, Base::tensor_;
  using typename Base::BlockRows;

 public:
  explicit MlpBackward(const MlpProgram<S>& program)
      : Base(program, true),
        row_sums_(lines_->rows.contributions.size()),
        column_sums_(lines_->columns.contributions.size()),
        lane_sums_(program.network.n_hidden * program.network.n_within * kLanes),
        d_bias_(program.network.n_hidden),
        d_step_(kBlock),
        d_outputs_(program.network.n_outputs * kBlock),
        outputs_(Base::largest_ + kBlock),
        d_normalised_(Base::largest_ + kBlock) {
    int64_t channel = 0;
    for (const Feature& feature : program.features.features) {
      if (feature.kind == FeatureKind::parameter) parameter_ = channel;
      channel += feature.n_channels();
    }
  }

  using Base::begin_candidate;
  void finish_candidate(const NetworkWeights<S>& cotangents) const { network_.finish_candidate(cotangents); }

  void backward(const Run<S>& run, const RunCotangents<S>& cotangents) {
    d_factor_ = Vector<S>{};
    Base::begin_run(run);
    std::fill(d_bias_.begin(), d_bias_.end(), S(0));
    for (std::size_t index = 0; index < program_.tensors.size(); ++index) {
      Base::begin_tensor(run, index, nullptr);
      Base::begin_network();
      std::fill(row_sums_.begin(), row_sums_.end(), S(0));
      std::fill(column_sums_.begin(), column_sums_.end(), S(0));
      RunCotangents<S> own = cotangents;
      own.params_after += tensor_.offset;
      own.params += tensor_.offset;
      if (program_.output.normalised())
        normalised_cotangents(run, own);
      else
        Base::kept_ = false;  // every channel is read once
      for_each_block(tensor_.size(), strip_width<S>(), [&](const Block& block) { pass_block(run, own, block); });
      finish_first_layer(run, own);
      finish_lines(program_.lines.rows, lines_->rows, row_sums_, program_.network.n_channels, own.first);
      finish_lines(program_.lines.columns, lines_->columns, column_sums_,
                   program_.network.n_channels + program_.lines.rows.features.size(), own.first);
    }
    finish_shared(run, cotangents);
    *cotangents.factor = sum_of<S>(d_factor_);
  }

 private:
  // Where outputs are normalised over a tensor: the cotangents of all of its outputs, before anything else.
  void normalised_cotangents(const Run<S>& run, const RunCotangents<S>& own) {
    for_each_block(tensor_.size(), strip_width<S>(), [&](const Block& block) {
      const BlockRows rows = Base::rows_of(block);
      const S* outputs = Base::outputs_of(Base::compute_channels(rows, block), block);
      std::memcpy(outputs_.data() + block.start, outputs, block.n * sizeof(S));
    });
    const S scale = normalise(outputs_.data(), tensor_.size());
    for_each_block(tensor_.size(), strip_width<S>(), [&](const Block& block) {
      output_cotangents(run, own, Base::rows_of(block), outputs_.data() + block.start, block,
                        d_normalised_.data() + block.start);
    });
    normalise_backward(outputs_.data(), scale, tensor_.size(), d_normalised_.data());
  }

  void pass_block(const Run<S>& run, const RunCotangents<S>& own, const Block& block) {
    const BlockRows rows = Base::rows_of(block);
    const S* channels = Base::channels_of(rows, block);
    const S* outputs = Base::outputs_of(channels, block);
    const S* d_outputs = d_normalised_.data() + block.start;
    if (!program_.output.normalised()) {
      output_cotangents(run, own, rows, outputs, block, d_outputs_.data());
      d_outputs = d_outputs_.data();
    }
    const S* d_sums = network_.backward(channels, d_outputs, block.width);
    gather_lines(d_sums, program_.network.n_hidden, block.start, block.n, block.width, lines_->rows, row_sums_.data(), lines_->columns,
                 column_sums_.data());
    write_params(run, own, d_sums, block);
  }

  // Cotangents of a block's outputs (or normalised outputs) [n_outputs][width]; adds to that of the factor.
  void output_cotangents(const Run<S>& run, const RunCotangents<S>& own, const BlockRows& rows, const S* outputs,
                         const Block& block, S* d_outputs) {
    const S* given = Base::padded(own.params_after, block, Base::spare_slot());
    const S* step = Base::steps_of(run, rows, outputs, block);
    for (int64_t i = 0; i < block.width; i += kLanes) {
      d_factor_ += load(step + i) * load(given + i);
      store(d_step_.data() + i, load(given + i) * run.factor);
    }
    steps_backward(program_.output, run.output, Base::output_rows(rows, outputs), block.width, d_step_.data(), d_outputs);
  }

  // The cotangents of the params of a block, but for what the normaliser of the channel `parameter` adds.
  void write_params(const Run<S>& run, const RunCotangents<S>& own, const S* d_sums, const Block& block) {
    const S* given = Base::padded(own.params_after, block, Base::spare_slot());
    S* to = block.whole() ? own.params + block.start : d_step_.data();
    const int64_t n_hidden = parameter_ == kNone ? 0 : program_.network.n_hidden;
    fill_row(to, block.width, [&](int64_t i) {
      Vector<S> sum{};
      for (int64_t h = 0; h < n_hidden; ++h) sum += parameter_weight(run, h) * load(d_sums + h * block.width + i);
      return Vector<S>(load(given + i) + (n_hidden ? normalisers_[parameter_] * sum : sum));
    });
    if (!block.whole()) std::memcpy(own.params + block.start, to, block.n * sizeof(S));
  }

  S parameter_weight(const Run<S>& run, int64_t h) const { return run.first[h * program_.network.n_inputs + parameter_]; }

  void finish_first_layer(const Run<S>& run, const RunCotangents<S>& own) {
    for (int64_t h = 0; h < program_.network.n_hidden; ++h) {
      for (int64_t c = 0; c < program_.network.n_channels; ++c)
        own.first[h * program_.network.n_inputs + c] += normalisers_[c] * network_.first_sum(h, c);
      for (int64_t i = 0; i < tensor_.n_rows; ++i) d_bias_[h] += row_sums_[h * lines_->rows.stride + i];
    }
    if (parameter_ == kNone) return;
    // d/dθᵢ of s = (mean θ² + ε)^(−1/2) is −s³·θᵢ/n.
    S d_normaliser = 0;
    for (int64_t h = 0; h < program_.network.n_hidden; ++h) d_normaliser += parameter_weight(run, h) * network_.first_sum(h, parameter_);
    const S scale = normalisers_[parameter_];
    const S along = -d_normaliser * scale * scale * scale / static_cast<S>(tensor_.size());
    for (int64_t i = 0; i < tensor_.size(); ++i) own.params[i] += along * Base::params_[i];
  }

  // Adds the cotangents of the first layer's weights for the features of rows, or of columns.
  void finish_lines(const LineSide<S>& side, const Lines<S>& lines, const std::vector<S>& sums, int64_t column, S* d_first) {
    const int64_t n_features = static_cast<int64_t>(side.features.size()), n_hidden = program_.network.n_hidden;
    std::fill(lane_sums_.begin(), lane_sums_.end(), S(0));
    outer_product(sums.data(), n_hidden, lines.channels.data(), n_features, lines.stride, lane_sums_.data());
    for (int64_t h = 0; h < n_hidden; ++h)
      for (int64_t f = 0; f < n_features; ++f)
        d_first[h * program_.network.n_inputs + column + f] +=
            normalisers_[column + f] * sum_of<S>(load(&lane_sums_[(h * n_features + f) * kLanes]));
  }

  // What all coordinates of the run share: the bias and the channels of the step and the task.
  void finish_shared(const Run<S>& run, const RunCotangents<S>& cotangents) const {
    const NetworkShape& shape = program_.network;
    S* d_shared = cotangents.first + shape.n_within;
    for (int64_t h = 0; h < shape.n_hidden; ++h, d_shared += shape.n_inputs) {
      cotangents.bias[h] += d_bias_[h];
      for (int64_t c = 0; c < Base::n_step(); ++c) d_shared[c] += d_bias_[h] * program_.step_channels[c];
      for (int64_t c = Base::n_step(); c < Base::n_shared(); ++c) d_shared[c] += d_bias_[h] * run.task[c - Base::n_step()];
    }
  }

  int64_t parameter_ = kNone;  // the channel
  Vector<S> d_factor_{};
  std::vector<S> row_sums_, column_sums_, lane_sums_, d_bias_;
  Rows<S> d_step_, d_outputs_;
  Rows<S> outputs_, d_normalised_;  // of one tensor, where outputs are normalised
};

}  // namespace evometa

// What the forward and the backward pass of an MLP rule share: a run (the parameters of one candidate for one
// task) is worked on tensor by tensor, and a tensor block by block.
#pragma once

#include <limits>

#include "blocks.h"
#include "line_features.h"
#include "mlp_network.h"
#include "output.h"

namespace evometa {

constexpr int64_t kBlock = 256;  // coordinates, whose channels stay in the first-level cache
// Channels of a tensor are kept from one pass over it to the next where this many numbers hold them: they then
// stay in the second-level cache. Those of larger tensors are computed again.
constexpr int64_t kKeptNumbers = 1 << 16;
constexpr int64_t kMaxMoments = 8;

// The rows and the columns of a tensor.
template <class S>
struct SidesOf {
  Lines<S> rows, columns;
};

// Where the statistics of one run lie; what is not kept is null.
template <class S>
struct Statistics {
  S* momenta[kMaxMoments];
  S* second_moment;
  S* row_moments[kMaxMoments];
  S* column_moments[kMaxMoments];
};

// One run at one step.
template <class S>
struct Run {
  const S* grads;
  const S* params;
  Statistics<S> after;  // the statistics after the step
  const S* first;       // the first layer's weights (n_hidden, n_inputs)
  const S* bias;        // and bias (n_hidden)
  const S* task;        // channels of the task
  S factor;             // of the schedule
  OutputNumbers<S> output;
  S* normalisers;       // (tensors, n_within): the forward pass leaves them for the backward pass
};

// The structure of a rule and of the parameters it works on, with the numbers of one step.
template <class S>
struct MlpProgram {
  NetworkShape network;
  OutputStage output;
  int64_t output_momentum;  // which momentum the nominal step reads, or kNone
  std::vector<Matrix> tensors;
  FeatureProgram<S> features;
  LineProgram<S> lines;
  std::vector<S> step_channels;
};

// `n` coordinates from `start` on within a tensor, `width` with padding.
struct Block {
  int64_t start, n, width;
  bool whole() const { return n == width; }
};

inline int64_t n_blocks(int64_t size) { return (size + kBlock - 1) / kBlock; }

// Those numbered from `begin` to `end` of the blocks of `size` coordinates.
template <class Visit>
EVOMETA_INLINE void for_each_block(int64_t size, int64_t strip, int64_t begin, int64_t end, Visit visit) {
  for (int64_t start = begin * kBlock; start < std::min(end * kBlock, size); start += kBlock) {
    const int64_t n = std::min(kBlock, size - start);
    visit(Block{start, n, (n + strip - 1) / strip * strip});
  }
}

template <class Visit>
EVOMETA_INLINE void for_each_block(int64_t size, int64_t strip, Visit visit) {
  for_each_block(size, strip, 0, n_blocks(size), visit);
}

template <class S>
int64_t kept_numbers(const MlpProgram<S>& program, const Matrix& tensor) {
  return (tensor.size() + kBlock) * program.network.n_channels;
}

// Whether channels are kept from one pass over a tensor to the next.
template <class S>
bool keeps_channels(const MlpProgram<S>& program, const Matrix& tensor) {
  return kept_numbers(program, tensor) <= kKeptNumbers;
}

template <class S>
class MlpPass {
 protected:
  static constexpr int64_t kLanes = VectorOf<S>::width;

  // Tensors of more than `largest` coordinates are only followed.
  MlpPass(const MlpProgram<S>& program, bool with_gradients, int64_t largest = std::numeric_limits<int64_t>::max())
      : program_(program),
        network_(program.network, kBlock, with_gradients),
        own_lines_{{program.lines.rows, n_factored(), program.network.n_hidden, longest(program, largest, &Matrix::n_rows)},
                   {program.lines.columns, n_factored(), program.network.n_hidden, longest(program, largest, &Matrix::n_columns)}},
        channels_(channel_numbers(program)),
        padded_((program.features.momenta.size() + 4) * kBlock),
        spread_((n_factored() + 1) * kBlock),
        root_(kBlock),
        step_(kBlock),
        bias_(program.network.n_hidden) {
    if (program.output.normalised())
      for (const Matrix& tensor : program.tensors)
        if (tensor.size() <= largest) largest_ = std::max(largest_, tensor.size());
  }
  MlpPass(const MlpPass&) = delete;  // holds addresses within itself

  int64_t n_factored() const { return static_cast<int64_t>(program_.lines.factored.size()); }

  // Turns to the next candidate, whose weights stay where they are.
  void begin_candidate(const PackedWeights<S>& weights) {
    network_.begin_candidate(weights);
    line_weights_ = weights.lines;
  }

  // Turns to the next run.
  void begin_run(const Run<S>& run) {
    const NetworkShape& shape = program_.network;
    const S* shared = run.first + shape.n_within;
    for (int64_t h = 0; h < shape.n_hidden; ++h, shared += shape.n_inputs) {
      bias_[h] = run.bias[h];
      for (int64_t c = 0; c < n_step(); ++c) bias_[h] += shared[c] * program_.step_channels[c];
      for (int64_t c = n_step(); c < n_shared(); ++c) bias_[h] += shared[c] * run.task[c - n_step()];
    }
  }

  // Channels that all coordinates of a run share, and those of them that belong to the step and come first.
  int64_t n_shared() const { return program_.network.n_inputs - program_.network.n_within; }
  int64_t n_step() const { return static_cast<int64_t>(program_.step_channels.size()); }

  // Turns to the next tensor; `before` are the statistics to update, or null where that is done.
  void begin_tensor(const Run<S>& run, std::size_t index, const Statistics<S>* before) {
    tensor_ = program_.tensors[index];
    grads_ = run.grads + tensor_.offset;
    params_ = run.params + tensor_.offset;
    after_ = shifted(run.after);
    if (before) before_ = shifted(*before);
    normalisers_ = run.normalisers + index * program_.network.n_within;
    kept_ = keeps_channels(program_, tensor_);
    lines_ = &own_lines_;
    auto& [rows, columns] = own_lines_;
    rows.begin_tensor(tensor_.n_rows);
    columns.begin_tensor(tensor_.n_columns);
    if (program_.lines.empty()) return;
    if (before) {
      mean_squares(grads_, tensor_, rows.means.data(), columns.means.data());
      update_moments(program_.lines.rows, before_.row_moments, after_.row_moments, rows);
      update_moments(program_.lines.columns, before_.column_moments, after_.column_moments, columns);
    } else {
      load_moments(program_.lines.rows, after_.row_moments, rows);
      load_moments(program_.lines.columns, after_.column_moments, columns);
    }
    line_channels(program_.lines.rows, rows);
    line_channels(program_.lines.columns, columns);
    factored_moments(program_.lines, rows, columns);
  }

  // The first layer's weights, and what rows and columns contribute to it; normalisers are known by now.
  void begin_network() {
    begin_first_layer();
    auto& [rows, columns] = own_lines_;
    const int64_t n_channels = program_.network.n_channels;
    contribute(line_weights_[0], program_.lines.rows, normalisers_ + n_channels, bias_.data(), rows);
    contribute(line_weights_[1], program_.lines.columns, normalisers_ + n_channels + program_.lines.rows.features.size(),
               nullptr, columns);
  }

  // The first layer's weights alone.
  void begin_first_layer() { network_.begin_tensor(normalisers_); }

  // Turns to the tensor that another pass is at, which has begun the network by the time this one needs it.
  void follow(const MlpPass& leader) {
    tensor_ = leader.tensor_;
    grads_ = leader.grads_;
    params_ = leader.params_;
    before_ = leader.before_;
    after_ = leader.after_;
    normalisers_ = leader.normalisers_;
    kept_ = false;
    lines_ = leader.lines_;
  }

  // A row of a block: the memory itself, or where the block is partial a copy padded with zeros.
  const S* padded(const S* row, const Block& block, int64_t slot) {
    if (!row || block.whole()) return row ? row + block.start : nullptr;
    S* copy = padded_.row(slot, kBlock);
    std::memcpy(copy, row + block.start, block.n * sizeof(S));
    std::fill_n(copy + block.n, block.width - block.n, S(0));
    return copy;
  }

  struct BlockRows {
    const S* grads;
    const S* params;
    const S* momenta[kMaxMoments];
    const S* second_moment;
  };

  BlockRows rows_of(const Block& block) {
    const int64_t n_momenta = static_cast<int64_t>(program_.features.momenta.size());
    BlockRows rows;
    for (int64_t m = 0; m < n_momenta; ++m) rows.momenta[m] = padded(after_.momenta[m], block, m);
    rows.second_moment = padded(after_.second_moment, block, n_momenta);
    rows.grads = padded(grads_, block, n_momenta + 1);
    rows.params = padded(params_, block, n_momenta + 2);
    return rows;
  }

  // A row of padding that rows_of() leaves alone.
  int64_t spare_slot() const { return static_cast<int64_t>(program_.features.momenta.size()) + 3; }

  // The channels of a block [n_channels][width], zero where it is padded. Their squares are added lane by lane to
  // squares[n_channels][lanes], where it is not null.
  S* compute_channels(const BlockRows& rows, const Block& block, S* squares = nullptr) {
    S* out = channels_.data() + (kept_ ? block.start * program_.network.n_channels : 0);
    const S* factored[kMaxMoments];
    for (int64_t f = 0; f < n_factored(); ++f) factored[f] = spread_.row(f, block.width);
    spread_lines(lines_->rows, lines_->rows.factors.data(), lines_->columns, lines_->columns.factors.data(), n_factored(),
                 block.start, block.n, block.width, spread_.data(), [](Vector<S> row, Vector<S> column) { return row * column; });
    const CoordinateRows<S> sources{rows.grads, rows.params, rows.momenta, rows.second_moment, factored};
    if (squares && block.whole()) {
      coordinate_channels<true>(program_.features, sources, block.width, root_.data(), out, squares);
      return out;
    }
    coordinate_channels<false>(program_.features, sources, block.width, root_.data(), out, squares);
    clear_padding(out, program_.network.n_channels, block);
    for (int64_t c = 0; squares && c < program_.network.n_channels; ++c)
      add_squares(out + c * block.width, block.width, squares + c * kLanes);
    return out;
  }

  // The same, where the tensor has been passed through before.
  const S* channels_of(const BlockRows& rows, const Block& block) {
    return kept_ ? channels_.data() + block.start * program_.network.n_channels : compute_channels(rows, block);
  }

  // The network's outputs [n_outputs][width].
  const S* outputs_of(const S* channels, const Block& block) {
    spread_lines(lines_->rows, lines_->rows.contributions.data(), lines_->columns, lines_->columns.contributions.data(),
                 program_.network.n_hidden, block.start, block.n, block.width, network_.start(),
                 [](Vector<S> row, Vector<S> column) { return row + column; });
    clear_padding(network_.start(), program_.network.n_hidden, block);
    return network_.forward(channels, block.width);
  }

  const S* steps_of(const Run<S>& run, const BlockRows& rows, const S* outputs, const Block& block) {
    steps(program_.output, run.output, output_rows(rows, outputs), block.width, step_.data());
    return step_.data();
  }

  OutputRows<S> output_rows(const BlockRows& rows, const S* outputs) const {
    const S* momentum = program_.output_momentum == kNone ? nullptr : rows.momenta[program_.output_momentum];
    return {outputs, rows.grads, momentum, rows.second_moment};
  }

  const MlpProgram<S>& program_;
  Network<S> network_;
  SidesOf<S> own_lines_;
  const SidesOf<S>* lines_ = &own_lines_;
  Rows<S> channels_, padded_, spread_, root_, step_;
  int64_t largest_ = 0;  // size of the largest tensor, where outputs are normalised over each

  // Of the tensor at hand, from its first coordinate, row or column on.
  Matrix tensor_{};
  const S* grads_ = nullptr;
  const S* params_ = nullptr;
  Statistics<S> before_{}, after_{};
  S* normalisers_ = nullptr;
  bool kept_ = false;
 private:
  // The tensor's own part of the statistics' memory.
  Statistics<S> shifted(Statistics<S> statistics) const {
    for (std::size_t m = 0; m < program_.features.momenta.size(); ++m) statistics.momenta[m] += tensor_.offset;
    if (statistics.second_moment) statistics.second_moment += tensor_.offset;
    for (std::size_t m = 0; m < program_.lines.rows.moments.size(); ++m) statistics.row_moments[m] += tensor_.row_offset;
    for (std::size_t m = 0; m < program_.lines.columns.moments.size(); ++m)
      statistics.column_moments[m] += tensor_.column_offset;
    return statistics;
  }

  static int64_t longest(const MlpProgram<S>& program, int64_t largest, int64_t Matrix::*extent) {
    int64_t most = 0;
    for (const Matrix& tensor : program.tensors)
      if (tensor.size() <= largest) most = std::max(most, tensor.*extent);
    return most;
  }

  static int64_t channel_numbers(const MlpProgram<S>& program) {
    int64_t most = kBlock * program.network.n_channels;
    for (const Matrix& tensor : program.tensors)
      if (keeps_channels(program, tensor)) most = std::max(most, kept_numbers(program, tensor));
    return most;
  }

  static void clear_padding(S* rows, int64_t n_rows, const Block& block) {
    if (block.whole()) return;
    for (int64_t row = 0; row < n_rows; ++row) std::fill(rows + row * block.width + block.n, rows + (row + 1) * block.width, S(0));
  }

  void contribute(const std::vector<S>& weights, const LineSide<S>& side, const S* normalisers, const S* bias, Lines<S>& lines) {
    const int64_t n_features = static_cast<int64_t>(side.features.size()), n_hidden = program_.network.n_hidden;
    normalised_.resize(weights.size());
    scale_columns(weights.data(), n_hidden, n_features, normalisers, normalised_.data());
    dense_product<S, Start::bias, End::linear>(normalised_.data(), n_hidden, n_features, lines.channels.data(), lines.stride,
                                               bias, lines.contributions.data());
  }

  const std::vector<S>* line_weights_ = nullptr;  // the first layer's, packed, for rows and for columns
  std::vector<S> normalised_;
  std::vector<S> bias_;  // of the first layer, with what all coordinates of the run share
};

}  // namespace evometa

// The forward pass of an MLP rule: statistics, normalisers, network, step.
#pragma once

#include "mlp_pass.h"

namespace evometa {

constexpr double kNormaliserEpsilon = 1e-24;  // features.NORMALISER_EPSILON

template <class S>
class MlpForward : private MlpPass<S> {
  using Base = MlpPass<S>;
  using Base::kLanes, Base::lines_, Base::network_, Base::normalisers_, Base::program_, Base::tensor_;
  using typename Base::BlockRows;

 public:
  explicit MlpForward(const MlpProgram<S>& program, int64_t largest = std::numeric_limits<int64_t>::max())
      : Base(program, false, largest),
        squares_(program.network.n_within * kLanes),
        mean_squares_(program.network.n_within + kLanes),
        outputs_(Base::largest_ + kBlock) {}

  using Base::begin_candidate, Base::begin_run;

  // The statistics after the step, the normalisers and the next params; all may be written in place.
  void advance(const Run<S>& run, const Statistics<S>& before, S* params_after) {
    begin_run(run);
    for (std::size_t index = 0; index < program_.tensors.size(); ++index) advance_tensor(run, index, before, params_after);
  }

  // The same of one tensor; its run has begun.
  void advance_tensor(const Run<S>& run, std::size_t index, const Statistics<S>& before, S* params_after) {
    begin_tensor(run, index, before);
    const int64_t n = n_blocks(tensor_.size());
    observe(0, n, squares_.data(), 0);
    begin_network();
    if (!program_.output.normalised()) return write_params(run, 0, n, params_after);
    write_outputs(0, n, outputs_.data());
    finish(run, 0, n, outputs_.data(), normaliser_of<S>(inner_product(outputs_.data(), outputs_.data(), tensor_.size()), tensor_.size()),
           params_after);
  }

  // ---- the parts of advance_tensor(), for passes that share the blocks of a tensor, numbered from 0 on ----

  void begin_tensor(const Run<S>& run, std::size_t index, const Statistics<S>& before) {
    Base::begin_tensor(run, index, &before);
    std::fill_n(squares_.data(), program_.network.n_within * kLanes, S(0));
  }

  // Turns to the tensor that another pass is at, which has begun its network or will do so.
  void follow(const MlpForward& leader) { Base::follow(leader); }

  // First pass over a tensor: its statistics, and the squares of its channels, added to `squares`, which is `stride`
  // further on for each block.
  void observe(int64_t begin, int64_t end, S* squares, int64_t stride) {
    for_each_block(tensor_.size(), strip_width<S>(), begin, end, [&](const Block& block) {
      update(block);
      Base::compute_channels(Base::rows_of(block), block, squares);
      squares += stride;
    });
  }

  // Adds the squares of a block that another pass has observed; blocks are to be added in their order.
  void add_block(const S* squares) {
    for (int64_t i = 0; i < program_.network.n_channels * kLanes; i += kLanes)
      store(squares_.data() + i, load(squares_.data() + i) + load(squares + i));
  }

  // The normalisers and the first layer, once all blocks are observed.
  void begin_network() {
    S* squares = squares_.data() + program_.network.n_channels * kLanes;
    for (const auto& [side, lines] :
         {std::pair(&program_.lines.rows, &lines_->rows), std::pair(&program_.lines.columns, &lines_->columns)})
      for (std::size_t f = 0; f < side->features.size(); ++f, squares += kLanes)
        add_squares(&lines->channels[f * lines->stride], lines->stride, squares);
    write_normalisers();
    Base::begin_network();
  }

  // Begins the network of a tensor that is followed.
  void follow_network() { Base::begin_first_layer(); }

  // Second pass: the network and the step.
  void write_params(const Run<S>& run, int64_t begin, int64_t end, S* params_after) {
    for_each_block(tensor_.size(), strip_width<S>(), begin, end, [&](const Block& block) {
      const BlockRows rows = Base::rows_of(block);
      write_block(run, rows, Base::outputs_of(Base::channels_of(rows, block), block), block, params_after);
    });
  }

  // The same where outputs are normalised: first the outputs of all blocks,
  void write_outputs(int64_t begin, int64_t end, S* to) {
    for_each_block(tensor_.size(), strip_width<S>(), begin, end, [&](const Block& block) {
      const S* outputs = Base::outputs_of(Base::channels_of(Base::rows_of(block), block), block);
      std::memcpy(to + block.start, outputs, block.n * sizeof(S));
    });
  }

  // then the step. There may be numbers behind the last output that are read in vain.
  void finish(const Run<S>& run, int64_t begin, int64_t end, S* outputs, S normaliser, S* params_after) {
    for_each_block(tensor_.size(), strip_width<S>(), begin, end, [&](const Block& block) {
      for (int64_t i = block.start; i < block.start + block.n; ++i) outputs[i] *= normaliser;
      write_block(run, Base::rows_of(block), outputs + block.start, block, params_after);
    });
  }

  // Room for the outputs of a tensor, where they are normalised.
  S* outputs() { return outputs_.data(); }

 private:
  void update(const Block& block) {
    const int64_t n_momenta = static_cast<int64_t>(program_.features.momenta.size());
    const S* from[kMaxMoments];
    S* to[kMaxMoments];
    const auto target = [&](S* row, int64_t slot) { return block.whole() ? row + block.start : Base::padded_.row(slot, kBlock); };
    for (int64_t m = 0; m < n_momenta; ++m) {
      from[m] = Base::padded(Base::before_.momenta[m], block, m);
      to[m] = target(Base::after_.momenta[m], m);
    }
    S* second_moment = Base::after_.second_moment ? target(Base::after_.second_moment, n_momenta) : nullptr;
    update_statistics(program_.features, Base::padded(Base::grads_, block, n_momenta + 1), from,
                      Base::padded(Base::before_.second_moment, block, n_momenta), to, second_moment, block.width);
    if (block.whole()) return;
    for (int64_t m = 0; m < n_momenta; ++m)
      std::memcpy(Base::after_.momenta[m] + block.start, to[m], block.n * sizeof(S));
    if (second_moment) std::memcpy(Base::after_.second_moment + block.start, second_moment, block.n * sizeof(S));
  }

  // 1 / RMS of every channel over the tensor, or over its lines.
  void write_normalisers() {
    const int64_t n_within = program_.network.n_within, n_channels = program_.network.n_channels;
    const int64_t first_column = n_channels + static_cast<int64_t>(program_.lines.rows.features.size());
    S* means = mean_squares_.data();
    for (int64_t c = 0; c < n_within; ++c) {
      const int64_t n = c < n_channels ? tensor_.size() : c < first_column ? tensor_.n_rows : tensor_.n_columns;
      means[c] = sum_of<S>(load(squares_.data() + c * kLanes)) * (S(1) / n);
    }
    for (int64_t c = 0; c < n_within; c += kLanes)
      store(means + c, reciprocal_root_of(load(means + c) + static_cast<S>(kNormaliserEpsilon)));
    std::memcpy(normalisers_, means, n_within * sizeof(S));
  }

  void write_block(const Run<S>& run, const BlockRows& rows, const S* outputs, const Block& block, S* params_after) {
    const S* step = Base::steps_of(run, rows, outputs, block);
    params_after += tensor_.offset;
    S* to = block.whole() ? params_after + block.start : Base::padded_.row(Base::spare_slot(), kBlock);
    fill_row(to, block.width, [&](int64_t i) { return Vector<S>(load(rows.params + i) + run.factor * load(step + i)); });
    if (!block.whole()) std::memcpy(params_after + block.start, to, block.n * sizeof(S));
  }

  Rows<S> squares_, mean_squares_;
  Rows<S> outputs_;  // of one tensor, where they are normalised
};

}  // namespace evometa

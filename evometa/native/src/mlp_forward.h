// The forward pass of an MLP rule: statistics, normalisers, network, step.
#pragma once

#include "mlp_pass.h"

namespace evometa {

constexpr double kNormaliserEpsilon = 1e-24;  // features.NORMALISER_EPSILON

template <class S>
class MlpForward : private MlpPass<S> {
  using Base = MlpPass<S>;
  using Base::columns_, Base::kLanes, Base::network_, Base::normalisers_, Base::program_, Base::rows_, Base::tensor_;
  using typename Base::BlockRows;

 public:
  explicit MlpForward(const MlpProgram<S>& program)
      : Base(program, false),
        squares_(program.network.n_within * kLanes),
        mean_squares_(program.network.n_within + kLanes),
        outputs_(Base::largest_ + kBlock) {}

  using Base::begin_candidate;

  // The statistics after the step, the normalisers and the next params; all may be written in place.
  void advance(const Run<S>& run, const Statistics<S>& before, S* params_after) {
    Base::begin_run(run);
    for (std::size_t index = 0; index < program_.tensors.size(); ++index) {
      Base::begin_tensor(run, index, &before);
      observe();
      write_normalisers();
      Base::begin_network();
      write_params(run, params_after + tensor_.offset);
    }
  }

 private:
  // First pass over a tensor: its statistics, and the squares of its channels.
  void observe() {
    std::fill_n(squares_.data(), program_.network.n_within * kLanes, S(0));
    for_each_block(tensor_.size(), strip_width<S>(), [&](const Block& block) {
      update(block);
      Base::compute_channels(Base::rows_of(block), block, squares_.data());
    });
    S* squares = squares_.data() + program_.network.n_channels * kLanes;
    for (const auto& [side, lines] : {std::pair(&program_.lines.rows, &rows_), std::pair(&program_.lines.columns, &columns_)})
      for (std::size_t f = 0; f < side->features.size(); ++f, squares += kLanes)
        add_squares(&lines->channels[f * lines->stride], lines->stride, squares);
  }

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

  // Second pass: the network and the step.
  void write_params(const Run<S>& run, S* params_after) {
    const bool normalised = program_.output.normalised();
    for_each_block(tensor_.size(), strip_width<S>(), [&](const Block& block) {
      const BlockRows rows = Base::rows_of(block);
      const S* outputs = Base::outputs_of(Base::channels_of(rows, block), block);
      if (normalised)
        std::memcpy(outputs_.data() + block.start, outputs, block.n * sizeof(S));
      else
        write_block(run, rows, outputs, block, params_after);
    });
    if (!normalised) return;
    normalise(outputs_.data(), tensor_.size());
    for_each_block(tensor_.size(), strip_width<S>(), [&](const Block& block) {
      write_block(run, Base::rows_of(block), outputs_.data() + block.start, block, params_after);
    });
  }

  void write_block(const Run<S>& run, const BlockRows& rows, const S* outputs, const Block& block, S* params_after) {
    const S* step = Base::steps_of(run, rows, outputs, block);
    S* to = block.whole() ? params_after + block.start : Base::padded_.row(Base::spare_slot(), kBlock);
    fill_row(to, block.width, [&](int64_t i) { return Vector<S>(load(rows.params + i) + run.factor * load(step + i)); });
    if (!block.whole()) std::memcpy(params_after + block.start, to, block.n * sizeof(S));
  }

  Rows<S> squares_, mean_squares_;
  Rows<S> outputs_;  // of one tensor, where they are normalised
};

}  // namespace evometa

// One layer of recurrent cells on a block of coordinates, forward and backward.
#pragma once

#include <cstdint>
#include <vector>

#include "blocks.h"
#include "cells.h"
#include "packed_matrix.h"
#include "weight_gradient.h"

namespace evometa {

// Of one candidate, row-major: input (G·H, F + C), recurrent (G·H, H), bias (G·H), recurrent_bias (H) or null. The
// last C inputs are the same for all coordinates.
template <class T>
struct LayerWeights {
  T *input, *recurrent, *bias, *recurrent_bias;
};

template <class S, class Cell, int64_t kWidth>
class RecurrentLayer {
 public:
  RecurrentLayer(int64_t n_inputs, int64_t n_hidden)
      : n_inputs_(n_inputs),
        n_hidden_(n_hidden),
        buffer_((n_inputs + n_hidden + 2 * VectorOf<S>::width) * kWidth),
        gates_(Cell::kBlocks * n_hidden * kWidth),
        memory_before_(n_hidden * kWidth),
        memory_(n_hidden * kWidth),
        products_(Cell::kProducts.size()) {}

  // Rows that the caller fills before forward(): the inputs, and the state before the step.
  S* inputs() { return buffer_.data(); }
  S* hidden_before() { return buffer_.row(n_inputs_, kWidth); }
  S* memory_before() { return memory_before_.data(); }
  // The memory after the step.
  const S* memory() { return memory_.data(); }

  // `constants` are the inputs that are the same for all coordinates, the last of the weights' columns.
  void pack(const LayerWeights<const S>& weights, const std::vector<S>& constants) {
    constants_ = constants;
    for (std::size_t p = 0; p < products_.size(); ++p) {
      const Product& product = Cell::kProducts[p];
      gather(weights, product, true);
      products_[p].pack(dense_.data(), product.count * n_hidden_, n_columns(product), n_columns(product), 1, bias_.data());
    }
  }

  // Before backward(): gradients start from zero; cotangents are wanted of the inputs [first, first + count).
  void pack_backward(const LayerWeights<const S>& weights, int64_t first_input, int64_t n_wanted) {
    constexpr int kOwn = Cell::kRecurrentBias ? 1 : 0;  // blocks that see the inputs or the hidden state only
    gather(weights, {0, Cell::kBlocks - kOwn, true, false, false}, false);
    to_inputs_.pack(dense_.data() + first_input, n_wanted, (Cell::kBlocks - kOwn) * n_hidden_, 1, n_inputs_, nullptr);
    gather(weights, {kOwn, Cell::kBlocks - kOwn, false, true, false}, false);
    to_hidden_.pack(dense_.data(), n_hidden_, (Cell::kBlocks - kOwn) * n_hidden_, 1, n_hidden_, nullptr);
    if (gradients_.empty()) {
      for (const Product& product : Cell::kProducts)
        gradients_.emplace_back(product.count * n_hidden_, transposed_columns(product));
      transposed_.emplace_back(kWidth * transposed_stride());
    }
    for (auto& gradient : gradients_) gradient.clear();
  }

  // The next hidden state goes to `hidden` [H][kWidth].
  void forward(S* hidden) {
    for (std::size_t p = 0; p < products_.size(); ++p) {
      const Product& product = Cell::kProducts[p];
      const S* x = product.inputs ? inputs() : hidden_before();
      S* out = gates_.row(product.first * n_hidden_, kWidth);
      if (product.power)
        products_[p].template times<kWidth>(x, out, [](S* z, int64_t n) { gate_powers(z, n); });
      else
        products_[p].template times<kWidth>(x, out);
    }
    Cell::template forward<kWidth, S>(n_hidden_, rows(hidden));
  }

  // After forward(hidden). Adds to `d_inputs` the cotangents that were wanted.
  void backward(S* hidden, const CellCotangents<S>& cotangents, S* d_inputs) {
    Cell::template backward<kWidth, S>(n_hidden_, rows(hidden), cotangents);
    S* const transposed = transposed_[0].data();
    const int64_t stride = transposed_stride();
    if (hidden_column() == n_inputs_) {
      transpose<kWidth>(inputs(), n_inputs_ + n_hidden_, stride, transposed);
    } else {
      transpose<kWidth>(inputs(), n_inputs_, stride, transposed);
      transpose<kWidth>(hidden_before(), n_hidden_, stride, transposed + hidden_column());
    }
    for (std::size_t p = 0; p < gradients_.size(); ++p) {
      const Product& product = Cell::kProducts[p];
      const S* right = transposed + (product.inputs ? 0 : hidden_column());
      gradients_[p].template add<kWidth>(gates_.row(product.first * n_hidden_, kWidth), right, stride);
    }
    to_inputs_.template times<kWidth, true>(gates_.data(), d_inputs);
    const S* seen = gates_.row(Cell::kRecurrentBias ? n_hidden_ : 0, kWidth);
    to_hidden_.template times<kWidth, Cell::kDirect>(seen, cotangents.hidden_before);
  }

  void write_gradients(const LayerWeights<S>& to) {
    for (std::size_t p = 0; p < gradients_.size(); ++p) {
      const Product& product = Cell::kProducts[p];
      const int64_t offset = product.inputs ? hidden_column() : 0;
      for (int64_t block = 0; block < product.count; ++block)
        for (int64_t unit = 0; unit < n_hidden_; ++unit) {
          const int64_t row = block * n_hidden_ + unit;
          const int64_t weight_row = Cell::kWeightBlocks[product.first + block] * n_hidden_ + unit;
          for (int64_t k = 0; product.hidden && k < n_hidden_; ++k)
            to.recurrent[weight_row * n_hidden_ + k] = gradients_[p].at(row, offset + k);
          const S sum = gradients_[p].sum(row);
          (product.inputs ? to.bias[weight_row] : to.recurrent_bias[unit]) = sum;
          if (!product.inputs) continue;
          S* const input = to.input + weight_row * n_all_inputs();
          for (int64_t k = 0; k < n_inputs_; ++k) input[k] = gradients_[p].at(row, k);
          for (std::size_t k = 0; k < constants_.size(); ++k) input[n_inputs_ + static_cast<int64_t>(k)] = sum * constants_[k];
        }
    }
  }

 private:
  CellRows<S> rows(S* hidden) {
    return {gates_.data(), hidden_before(), memory_before_.data(), memory_.data(), hidden};
  }
  int64_t n_all_inputs() const { return n_inputs_ + static_cast<int64_t>(constants_.size()); }
  int64_t n_columns(const Product& product) const {
    return (product.inputs ? n_inputs_ : 0) + (product.hidden ? n_hidden_ : 0);
  }
  // Where the hidden state begins in the transposed buffer: behind the inputs, but at a whole vector where some
  // product is with the hidden state alone.
  int64_t hidden_column() const { return Cell::kProducts.size() > 1 ? whole_vectors<S>(n_inputs_) : n_inputs_; }
  int64_t transposed_stride() const { return whole_vectors<S>(hidden_column() + n_hidden_); }
  int64_t transposed_columns(const Product& product) const {
    if (!product.hidden) return n_inputs_;
    return product.inputs ? hidden_column() + n_hidden_ : n_hidden_;
  }

  // The rows of a product, row-major in dense_, with the gates' scales or without; their biases in bias_.
  void gather(const LayerWeights<const S>& weights, const Product& product, bool scaled) {
    dense_.clear();
    bias_.clear();
    for (int block = product.first; block < product.first + product.count; ++block) {
      const S scale = scaled ? static_cast<S>(Cell::kScales[block]) : S(1);
      for (int64_t unit = 0; unit < n_hidden_; ++unit) {
        const int64_t row = Cell::kWeightBlocks[block] * n_hidden_ + unit;
        const S* const input = weights.input + row * n_all_inputs();
        for (int64_t k = 0; product.inputs && k < n_inputs_; ++k) dense_.push_back(scale * input[k]);
        for (int64_t k = 0; product.hidden && k < n_hidden_; ++k)
          dense_.push_back(scale * weights.recurrent[row * n_hidden_ + k]);
        if (!scaled) continue;
        S bias = product.inputs ? weights.bias[row] : weights.recurrent_bias[unit];
        for (std::size_t k = 0; product.inputs && k < constants_.size(); ++k)
          bias += input[n_inputs_ + static_cast<int64_t>(k)] * constants_[k];
        bias_.push_back(scale * bias);
      }
    }
  }

  int64_t n_inputs_, n_hidden_;
  std::vector<S> constants_;
  Rows<S> buffer_;  // inputs, then the hidden state before the step
  Rows<S> gates_, memory_before_, memory_;
  std::vector<PackedMatrix<S>> products_;
  PackedMatrix<S> to_inputs_, to_hidden_;
  std::vector<S> dense_, bias_;
  std::vector<WeightGradient<S>> gradients_;
  std::vector<Rows<S>> transposed_;
};

}  // namespace evometa

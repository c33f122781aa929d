// Loss and gradient of one small perceptron on one batch, in a scratch memory that stays in cache.
//
// Activations are kept feature by feature, [features][rows], so that a layer is weights · activations and its
// bias one number a row. A large batch is taken in blocks of rows, whose gradients are added up.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "blocks.h"
#include "network_activations.h"
#include "tile_product.h"
#include "transpose.h"

namespace evometa {

constexpr int64_t kMostRows = 64;  // a block's activations of a small network fit the first-level cache

// A row's target: its class (cross-entropy), one value or several (squared error).
enum class Head { one_class, value, values };

template <class S>
struct PerceptronShape {
  std::vector<int64_t> sizes;  // inputs, hidden …, outputs
  Activation<S> activate;
  Head head;

  int64_t n_layers() const { return static_cast<int64_t>(sizes.size()) - 1; }
  int64_t n_targets() const { return head == Head::values ? sizes.back() : 1; }  // of a row
  int64_t n_params() const {
    int64_t total = 0;
    for (int64_t layer = 0; layer < n_layers(); ++layer) total += (sizes[layer] + 1) * sizes[layer + 1];
    return total;
  }
};

// Rows of one task, as every candidate's run on it reads them.
template <class S>
class Batch {
 public:
  Batch(int64_t n_rows, int64_t n_inputs, int64_t n_targets)
      : n_rows(n_rows), n_inputs(n_inputs), n_targets(n_targets), n_blocks((n_rows + kMostRows - 1) / kMostRows),
        block_rows(padded<S>((n_rows + n_blocks - 1) / n_blocks)), width(padded<S>(n_inputs)),
        rows_(n_blocks * block_rows * width), columns_(n_blocks * block_rows * width),
        targets_(n_blocks * n_targets * block_rows) {}

  // From x[…][n_inputs] and y[…][n_targets] the given rows, or the first ones in order where `rows` is null; padding
  // stays zero. Labels are small enough to be exact as S.
  template <class Y>
  void fill(const S* x, const Y* y, const int64_t* rows) {
    for (int64_t row = 0; row < n_rows; ++row) {
      const int64_t from = rows ? rows[row] : row;
      std::copy_n(x + from * n_inputs, n_inputs, rows_.data() + row * width);
      S* targets = targets_.data() + row / block_rows * n_targets * block_rows + row % block_rows;
      for (int64_t t = 0; t < n_targets; ++t) targets[t * block_rows] = static_cast<S>(y[from * n_targets + t]);
    }
    for (int64_t block = 0; block < n_blocks; ++block)
      transpose(this->rows(block), block_rows, width, width, columns_.data() + block * block_rows * width, block_rows);
  }

  const S* rows(int64_t block) { return rows_.data() + block * block_rows * width; }        // [rows][width]
  const S* columns(int64_t block) { return columns_.data() + block * block_rows * width; }  // [inputs][rows]
  const S* targets(int64_t block) { return targets_.data() + block * n_targets * block_rows; }  // [n_targets][rows]
  int64_t rows_in(int64_t block) const { return std::min(block_rows, n_rows - block * block_rows); }

  const int64_t n_rows, n_inputs, n_targets, n_blocks, block_rows, width;

 private:
  Rows<S> rows_, columns_, targets_;
};

// Replaces scores[classes][rows] by the derivative of the mean loss; returns the sum of the rows' losses.
template <class S>
inline S cross_entropy_head(S* scores, int64_t n_classes, int64_t rows, int64_t wanted, const S* labels, S share) {
  constexpr int w = VectorOf<S>::width;
  S total = 0;
  for (int64_t row = 0; row < wanted; row += w) {
    S* column = scores + row;
    const Vector<S> label = load(labels + row);
    Vector<S> most = load(column);
    for (int64_t c = 1; c < n_classes; ++c) {
      const Vector<S> score = load(column + c * rows);
      most = score > most ? score : most;
    }
    Vector<S> sum{}, own{};
    for (int64_t c = 0; c < n_classes; ++c) {
      const Vector<S> below = load(column + c * rows) - most;
      own = label == splat<S>(c) ? below : own;
      const Vector<S> power = below < S(-80) ? Vector<S>{} : exp_of(below);  // no subnormal numbers from here on
      store(column + c * rows, power);
      sum += power;
    }
    // `sum - sum` is 0, or NaN where a score was: the logarithm of floats alone would not tell.
    const Vector<S> loss = log_of(sum) + (sum - sum) - own;
    const Vector<S> factor = share / sum;
    for (int64_t c = 0; c < n_classes; ++c) {
      const Vector<S> of_label = label == splat<S>(c) ? splat<S>(share) : Vector<S>{};
      store(column + c * rows, load(column + c * rows) * factor - of_label);
    }
    for (int64_t lane = 0; lane < std::min<int64_t>(w, wanted - row); ++lane) total += loss[lane];
  }
  return total;
}

// The same for outputs[n_outputs][rows] and values alike.
template <class S>
inline S squared_error_head(S* outputs, int64_t n_outputs, int64_t rows, int64_t wanted, const S* values, S share) {
  constexpr int w = VectorOf<S>::width;
  Vector<S> sums{};
  for (int64_t output = 0; output < n_outputs; ++output, outputs += rows, values += rows)
    for (int64_t row = 0; row < wanted; row += w) {
      const Vector<S> residual = load(outputs + row) - load(values + row);
      store(outputs + row, 2 * share * residual);
      Vector<S> square = residual * residual;
      for (int64_t lane = wanted - row; lane < w; ++lane) square[lane] = 0;  // rows of padding
      sums += square;
    }
  return sum_of<S>(sums);
}

template <class S>
class Perceptron {
 public:
  Perceptron(const PerceptronShape<S>& network, int64_t block_rows) : network_(network), rows_(block_rows) {
    for (int64_t layer = 0; layer < network.n_layers(); ++layer) {
      scores_.emplace_back(network.sizes[layer + 1] * rows_);
      if (layer + 1 == network.n_layers()) break;
      hidden_.emplace_back(network.sizes[layer + 1] * rows_);
      hidden_rows_.emplace_back(padded<S>(network.sizes[layer + 1]) * rows_);
    }
  }

  // Returns the mean loss and writes its gradient by params; both are laid out layer by layer, weights
  // [outputs][inputs] and then biases [outputs].
  S loss_and_grad(const S* params, Batch<S>& batch, S* grads) {
    S total = 0;
    for (int64_t block = 0; block < batch.n_blocks; ++block) {
      forward(params, batch, block);
      total += head(batch, block);
      backward(params, batch, block, grads);
    }
    return total / static_cast<S>(batch.n_rows * batch.n_targets);
  }

 private:
  void forward(const S* params, Batch<S>& batch, int64_t block) {
    const S* in = batch.columns(block);
    for (int64_t layer = 0; layer < network_.n_layers(); ++layer) {
      const int64_t n_in = network_.sizes[layer], n_out = network_.sizes[layer + 1];
      S* scores = scores_[layer].data();
      multiply<S>({params, n_in, 1}, n_out, n_in, in, rows_, rows_, {scores, rows_, params + n_out * n_in, false});
      if (layer + 1 < network_.n_layers()) {
        S* hidden = hidden_[layer].data();
        network_.activate(scores, hidden, n_out * rows_);
        transpose(hidden, n_out, rows_, rows_, hidden_rows_[layer].data(), padded<S>(n_out));
        in = hidden;
      }
      params += n_out * (n_in + 1);
    }
  }

  S head(Batch<S>& batch, int64_t block) {
    const int64_t wanted = batch.rows_in(block), n_outputs = network_.sizes.back();
    S* scores = scores_.back().data();
    const S share = S(1) / static_cast<S>(batch.n_rows * batch.n_targets);
    const S total = network_.head == Head::one_class
                        ? cross_entropy_head(scores, n_outputs, rows_, wanted, batch.targets(block), share)
                        : squared_error_head(scores, n_outputs, rows_, wanted, batch.targets(block), share);
    for (int64_t output = 0; output < n_outputs; ++output)  // rows of padding add nothing to any gradient
      std::fill(scores + output * rows_ + wanted, scores + (output + 1) * rows_, S(0));
    return total;
  }

  void backward(const S* params, Batch<S>& batch, int64_t block, S* grads) {
    const int64_t wanted = batch.rows_in(block);
    const S* weights = params + network_.n_params();
    S* out = grads + network_.n_params();
    for (int64_t layer = network_.n_layers() - 1; layer >= 0; --layer) {
      const int64_t n_in = network_.sizes[layer], n_out = network_.sizes[layer + 1];
      const S* delta = scores_[layer].data();
      weights -= n_out * (n_in + 1);
      out -= n_out * (n_in + 1);
      const S* in = layer ? hidden_rows_[layer - 1].data() : batch.rows(block);
      multiply<S>({delta, rows_, 1}, n_out, wanted, in, padded<S>(n_in), n_in, {out, n_in, nullptr, block > 0});
      for (int64_t output = 0; output < n_out; ++output) {
        const S sum = sum_of_row(delta + output * rows_);
        S& bias = out[n_out * n_in + output];
        bias = block > 0 ? bias + sum : sum;
      }
      if (layer == 0) continue;
      S* below = hidden_[layer - 1].data();  // its activations have been used
      multiply<S>({weights, 1, n_in}, n_in, n_out, delta, rows_, rows_, {below, rows_, nullptr, false});
      S* slopes = scores_[layer - 1].data();
      for (int64_t i = 0; i < n_in * rows_; i += VectorOf<S>::width)
        store(slopes + i, load(slopes + i) * load(below + i));
    }
  }

  S sum_of_row(const S* row) const {
    Vector<S> sum{};
    for (int64_t i = 0; i < rows_; i += VectorOf<S>::width) sum += load(row + i);
    return sum_of<S>(sum);
  }

  const PerceptronShape<S>& network_;
  const int64_t rows_;  // of a block, padded
  std::vector<Rows<S>> scores_, hidden_, hidden_rows_;
};

}  // namespace evometa

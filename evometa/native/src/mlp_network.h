// The network of an MLP rule on one block of coordinates, forward and backward.
//
// The first layer's products with channels that vary over less than coordinates, and its bias, come in as a start
// of its sums; here are only its products with the channels of coordinates, whose normalisers are folded into the
// weights of each tensor.
#pragma once

#include <cstdint>
#include <vector>

#include "blocks.h"
#include "dense.h"

namespace evometa {

struct NetworkShape {
  int64_t n_layers;  // hidden layers
  int64_t n_hidden;
  int64_t n_outputs;
  int64_t n_channels;  // of coordinates
  int64_t n_within;    // of coordinates, rows and columns, in this order: what is normalised over a tensor
  int64_t n_inputs;    // columns of the first layer's weights: n_within, then channels of steps and tasks

  // Rows of upper layer u; the layers above the first are the upper ones, the last of them gives the outputs.
  int64_t rows(int64_t u) const { return u + 1 < n_layers ? n_hidden : n_outputs; }
};

// Where the weights of one candidate lie, or their cotangents.
template <class S>
struct NetworkWeights {
  S* first;                // the first layer's (n_hidden, n_inputs)
  S* bias;                 // and its bias (n_hidden)
  std::vector<S*> upper;   // (rows(u), n_hidden) each
  std::vector<S*> biases;  // (rows(u)) each
};

// The weights of one candidate in the order in which products read them.
template <class S>
struct PackedWeights {
  std::vector<S> first;        // for the channels of coordinates
  std::vector<S> lines[2];     // for those of rows and of columns
  std::vector<std::vector<S>> upper, transposed;  // the latter for gradients only
  std::vector<S*> biases;      // of the upper layers

  PackedWeights(const NetworkShape& shape, int64_t n_row_channels, const NetworkWeights<S>& weights, bool with_gradients)
      : upper(shape.n_layers), transposed(with_gradients ? shape.n_layers : 0), biases(weights.biases) {
    const S* column = weights.first;
    const auto pack_first = [&](int64_t n_channels, std::vector<S>& packed) {
      packed.resize(shape.n_hidden * n_channels);
      pack_dense<S>(column, shape.n_hidden, n_channels, shape.n_inputs, 1, packed.data());
      column += n_channels;
    };
    pack_first(shape.n_channels, first);
    pack_first(n_row_channels, lines[0]);
    pack_first(shape.n_within - shape.n_channels - n_row_channels, lines[1]);
    for (int64_t u = 0; u < shape.n_layers; ++u) {
      const int64_t rows = shape.rows(u);
      upper[u].resize(rows * shape.n_hidden);
      pack_dense<S>(weights.upper[u], rows, shape.n_hidden, shape.n_hidden, 1, upper[u].data());
      if (!with_gradients) continue;
      transposed[u].resize(upper[u].size());
      pack_dense<S>(weights.upper[u], shape.n_hidden, rows, 1, shape.n_hidden, transposed[u].data());
    }
  }
};

template <class S>
class Network {
 public:
  Network(const NetworkShape& shape, int64_t block, bool with_gradients)
      : shape_(shape),
        block_(block),
        normalised_first_(shape.n_hidden * shape.n_channels),
        hidden_(shape.n_layers * shape.n_hidden * block + VectorOf<S>::width),
        outputs_(shape.n_outputs * block) {
    if (!with_gradients) return;
    cotangents_.resize(2 * shape.n_hidden * block);
    first_sums_.resize(shape.n_hidden * shape.n_channels * kLanes);
    upper_sums_.resize(shape.n_layers);
    bias_sums_.resize(shape.n_layers);
    for (int64_t u = 0; u < shape.n_layers; ++u) {
      upper_sums_[u].resize(shape.rows(u) * shape.n_hidden * kLanes);
      bias_sums_[u].resize(shape.rows(u) * kLanes);
    }
  }

  const NetworkShape& shape() const { return shape_; }

  // Turns to the next candidate, whose weights stay where they are.
  void begin_candidate(const PackedWeights<S>& weights) {
    weights_ = &weights;
    for (std::vector<S>& sums : upper_sums_) std::fill(sums.begin(), sums.end(), S(0));
    for (std::vector<S>& sums : bias_sums_) std::fill(sums.begin(), sums.end(), S(0));
  }

  // Normalisers of the next tensor's channels.
  void begin_tensor(const S* normalisers) {
    scale_columns(weights_->first.data(), shape_.n_hidden, shape_.n_channels, normalisers, normalised_first_.data());
    std::fill(first_sums_.begin(), first_sums_.end(), S(0));
  }

  // Where forward() expects the start of the first layer's sums: [n_hidden][width], one vector more may be
  // written behind it.
  S* start() { return hidden_.data(); }

  // Outputs [n_outputs][width] for channels [n_channels][width].
  const S* forward(const S* channels, int64_t width) {
    dense_product<S, Start::out, End::relu>(normalised_first_.data(), shape_.n_hidden, shape_.n_channels, channels, width, nullptr,
                                            hidden(0, width));
    for (int64_t u = 0; u + 1 < shape_.n_layers; ++u)
      dense_product<S, Start::bias, End::relu>(weights_->upper[u].data(), shape_.n_hidden, shape_.n_hidden, hidden(u, width), width,
                                               weights_->biases[u], hidden(u + 1, width));
    const int64_t last = shape_.n_layers - 1;
    dense_product<S, Start::bias, End::linear>(weights_->upper[last].data(), shape_.n_outputs, shape_.n_hidden, hidden(last, width),
                                               width, weights_->biases[last], outputs_.data());
    return outputs_.data();
  }

  // After forward() on the same block: from the cotangents of its outputs those of the first layer's sums,
  // [n_hidden][width]; those of the weights are added up until finish_tensor() and finish_candidate().
  const S* backward(const S* channels, const S* d_outputs, int64_t width) {
    const S* above = d_outputs;
    for (int64_t u = shape_.n_layers - 1; u >= 0; --u) {
      const int64_t rows = shape_.rows(u);
      outer_product(above, rows, hidden(u, width), shape_.n_hidden, width, upper_sums_[u].data());
      for (int64_t r = 0; r < rows; ++r) add_lanes(above + r * width, width, &bias_sums_[u][r * kLanes]);
      S* below = &cotangents_[u % 2 * shape_.n_hidden * block_];
      dense_product<S, Start::bias, End::linear>(weights_->transposed[u].data(), shape_.n_hidden, rows, above, width, nullptr, below);
      const S* active = hidden(u, width);
      for (int64_t i = 0; i < shape_.n_hidden * width; i += VectorOf<S>::width)
        store(below + i, load(active + i) <= 0 ? Vector<S>{} : load(below + i));
      above = below;
    }
    outer_product(above, shape_.n_hidden, channels, shape_.n_channels, width, first_sums_.data());
    return above;
  }

  // Σ over the tensor's coordinates of cotangent times channel, for hidden unit h and channel c.
  S first_sum(int64_t h, int64_t c) const { return sum_of<S>(load(&first_sums_[(h * shape_.n_channels + c) * kLanes])); }

  // Writes the cotangents of the upper layers.
  void finish_candidate(const NetworkWeights<S>& cotangents) const {
    for (int64_t u = 0; u < shape_.n_layers; ++u) {
      for (int64_t i = 0; i < shape_.rows(u) * shape_.n_hidden; ++i)
        cotangents.upper[u][i] = sum_of<S>(load(&upper_sums_[u][i * kLanes]));
      for (int64_t i = 0; i < shape_.rows(u); ++i) cotangents.biases[u][i] = sum_of<S>(load(&bias_sums_[u][i * kLanes]));
    }
  }

 private:
  static constexpr int64_t kLanes = VectorOf<S>::width;

  S* hidden(int64_t layer, int64_t width) { return &hidden_[layer * shape_.n_hidden * width]; }

  NetworkShape shape_;
  int64_t block_;
  const PackedWeights<S>* weights_ = nullptr;
  std::vector<S> normalised_first_;
  std::vector<S> hidden_, outputs_, cotangents_;
  // Sums over coordinates, kLanes of them for each weight.
  std::vector<S> first_sums_;
  std::vector<std::vector<S>> upper_sums_, bias_sums_;
};

}  // namespace evometa

// Layers of recurrent cells and the last, linear layer, on a block of coordinates.
#pragma once

#include <cstdint>
#include <vector>

#include "recurrent_layer.h"

namespace evometa {

// Of one candidate: the layers', then the last layer's weight (n_outputs, H) and bias (n_outputs).
template <class T>
struct RecurrentWeights {
  std::vector<LayerWeights<T>> layers;
  T *output_weight, *output_bias;
};

template <class S, class Cell, int64_t kWidth>
class RecurrentNetwork {
 public:
  using Layer = RecurrentLayer<S, Cell, kWidth>;

  RecurrentNetwork(int64_t n_layers, int64_t n_inputs, int64_t n_hidden, int64_t n_outputs)
      : n_hidden_(n_hidden),
        n_outputs_(n_outputs),
        top_(n_hidden * kWidth),
        outputs_(n_outputs * kWidth),
        d_outputs_(n_outputs * kWidth),
        output_gradients_(n_outputs * (n_hidden + 1) * kLanes) {
    for (int64_t layer = 0; layer < n_layers; ++layer) {
      layers_.emplace_back(layer ? n_hidden : n_inputs, n_hidden);
      d_hidden_.emplace_back(n_hidden * kWidth);
      d_memory_.emplace_back(n_hidden * kWidth);
      d_hidden_before_.emplace_back(n_hidden * kWidth);
    }
  }

  std::vector<Layer>& layers() { return layers_; }
  // Rows after forward(): a layer's next hidden state, and the outputs [n_outputs][kWidth].
  S* hidden(std::size_t layer) { return layer + 1 < layers_.size() ? layers_[layer + 1].inputs() : top_.data(); }
  const S* outputs() { return outputs_.data(); }
  // Rows of cotangents: those before backward() are the caller's to fill, d_memory() of the memory after the
  // step; after it d_memory() and d_hidden_before() are of the state before the step.
  S* d_outputs() { return d_outputs_.data(); }
  S* d_hidden(std::size_t layer) { return d_hidden_[layer].data(); }
  S* d_memory(std::size_t layer) { return d_memory_[layer].data(); }
  const S* d_hidden_before(std::size_t layer) { return d_hidden_before_[layer].data(); }

  // `constants` are inputs of the first layer that are the same for all coordinates.
  void pack(const RecurrentWeights<const S>& weights, const std::vector<S>& constants) {
    weights_ = weights;
    for (std::size_t layer = 0; layer < layers_.size(); ++layer)
      layers_[layer].pack(weights.layers[layer], layer ? std::vector<S>{} : constants);
  }

  // Gradients start from zero; `parameter_channel` is the input that is the parameter itself, or negative.
  void pack_backward(const RecurrentWeights<const S>& weights, int64_t parameter_channel) {
    layers_[0].pack_backward(weights.layers[0], parameter_channel < 0 ? 0 : parameter_channel, parameter_channel < 0 ? 0 : 1);
    for (std::size_t layer = 1; layer < layers_.size(); ++layer) layers_[layer].pack_backward(weights.layers[layer], 0, n_hidden_);
    std::fill_n(output_gradients_.data(), n_outputs_ * (n_hidden_ + 1) * kLanes, S(0));
  }

  void forward() {
    for (std::size_t layer = 0; layer < layers_.size(); ++layer) layers_[layer].forward(hidden(layer));
    const S* top = hidden(layers_.size() - 1);
    constexpr int kVectors = 4;
    for (int64_t output = 0; output < n_outputs_; ++output)
      for (int64_t strip = 0; strip < kWidth; strip += kVectors * kLanes) {
        Vector<S> sums[kVectors];
        for (int v = 0; v < kVectors; ++v) sums[v] = splat(weights_.output_bias[output]);
        for (int64_t unit = 0; unit < n_hidden_; ++unit) {
          const Vector<S> weight = splat(weights_.output_weight[output * n_hidden_ + unit]);
          for (int v = 0; v < kVectors; ++v) sums[v] += weight * load(top + unit * kWidth + strip + v * kLanes);
        }
        for (int v = 0; v < kVectors; ++v) store(outputs_.row(output, kWidth) + strip + v * kLanes, sums[v]);
      }
  }

  // Adds to `d_params` what comes through the parameter as an input.
  void backward(S* d_params) {
    const std::size_t last = layers_.size() - 1;
    output_backward(hidden(last), d_hidden(last));
    for (std::size_t layer = last + 1; layer-- > 0;)
      layers_[layer].backward(hidden(layer), {d_hidden(layer), d_memory(layer), d_hidden_before_[layer].data()},
                              layer ? d_hidden(layer - 1) : d_params);
  }

  void write_gradients(const RecurrentWeights<S>& to) {
    for (std::size_t layer = 0; layer < layers_.size(); ++layer) layers_[layer].write_gradients(to.layers[layer]);
    for (int64_t output = 0; output < n_outputs_; ++output) {
      for (int64_t unit = 0; unit < n_hidden_; ++unit)
        to.output_weight[output * n_hidden_ + unit] = sum_of<S>(load(output_gradient(output, unit)));
      to.output_bias[output] = sum_of<S>(load(output_gradient(output, n_hidden_)));
    }
  }

 private:
  static constexpr int64_t kLanes = VectorOf<S>::width;

  S* output_gradient(int64_t output, int64_t unit) {
    return output_gradients_.data() + (output * (n_hidden_ + 1) + unit) * kLanes;
  }

  void output_backward(const S* top, S* d_top) {
    for (int64_t output = 0; output < n_outputs_; ++output) {
      const S* d_output = d_outputs_.row(output, kWidth);
      Vector<S> bias = load(output_gradient(output, n_hidden_));
      for (int64_t i = 0; i < kWidth; i += kLanes) bias += load(d_output + i);
      store(output_gradient(output, n_hidden_), bias);
      for (int64_t unit = 0; unit < n_hidden_; ++unit) {
        const Vector<S> weight = splat(weights_.output_weight[output * n_hidden_ + unit]);
        Vector<S> sum = load(output_gradient(output, unit));
        for (int64_t i = 0; i < kWidth; i += kLanes) {
          const Vector<S> cotangent = load(d_output + i);
          sum += cotangent * load(top + unit * kWidth + i);
          S* const to = d_top + unit * kWidth + i;
          store(to, load(to) + weight * cotangent);
        }
        store(output_gradient(output, unit), sum);
      }
    }
  }

  int64_t n_hidden_, n_outputs_;
  std::vector<Layer> layers_;
  Rows<S> top_, outputs_, d_outputs_, output_gradients_;
  std::vector<Rows<S>> d_hidden_, d_memory_, d_hidden_before_;
  RecurrentWeights<const S> weights_{};
};

}  // namespace evometa

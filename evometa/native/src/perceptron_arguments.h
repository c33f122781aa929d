// A perceptron and its data as operators are given them, checked.
#pragma once

#include <ATen/core/Tensor.h>

#include "perceptron.h"

namespace evometa {

using at::Tensor;

// sizes: inputs, hidden …, outputs; target: "class", "value" (one output) or "values".
template <class S>
PerceptronShape<S> read_network(at::IntArrayRef sizes, c10::string_view activation, c10::string_view target) {
  TORCH_CHECK(target == "class" || target == "value" || target == "values", "unknown target ", target);
  const Head head = target == "class" ? Head::one_class : target == "value" ? Head::value : Head::values;
  TORCH_CHECK(sizes.size() >= 2, "a network has inputs and outputs");
  for (const int64_t size : sizes) TORCH_CHECK(size >= 1, "a layer has units");
  TORCH_CHECK(target != "value" || sizes.back() == 1, "a value is one output");
  const PerceptronShape<S> network{sizes.vec(), activation_named<S>({activation.data(), activation.size()}), head};
  TORCH_CHECK(network.activate.apply, "unknown activation ", activation);
  return network;
}

// Rows of data, x (…, inputs) and y (…), or (…, outputs) of several values.
template <class S>
void check_data(const PerceptronShape<S>& network, const Tensor& x, const Tensor& y) {
  const bool classes = network.head == Head::one_class, several = network.head == Head::values;
  TORCH_CHECK(x.dim() >= 2 && x.size(-1) == network.sizes.front() && y.dim() == x.dim() - 1 + several &&
                  x.sizes().slice(0, x.dim() - 1) == y.sizes().slice(0, x.dim() - 1) &&
                  (!several || y.size(-1) == network.sizes.back()),
              "x must be (…, ", network.sizes.front(), ") and y (…", several ? ", outputs)" : ")");
  TORCH_CHECK(x.is_cpu() && y.is_cpu() && x.scalar_type() == c10::CppTypeToScalarType<S>::value &&
                  y.scalar_type() == (classes ? at::kLong : x.scalar_type()),
              "x and y have the wrong type");
  TORCH_CHECK(x.is_contiguous() && y.is_contiguous(), "tensors must be contiguous");
  if (!classes) return;
  const int64_t* label = y.const_data_ptr<int64_t>();
  const int64_t n_classes = network.sizes.back();
  for (int64_t i = 0, n = y.numel(); i < n; ++i)
    TORCH_CHECK(label[i] >= 0 && label[i] < n_classes, "label ", label[i], " is out of range for ", n_classes, " classes");
}

// The batch's rows from x and y: rows[i] of them, or the first ones in order where `rows` is null.
template <class S>
void fill(Batch<S>& batch, Head head, const Tensor& x, const Tensor& y, int64_t first, const int64_t* rows) {
  const S* inputs = x.const_data_ptr<S>() + first * batch.n_inputs;
  if (head == Head::one_class)
    batch.fill(inputs, y.const_data_ptr<int64_t>() + first, rows);
  else
    batch.fill(inputs, y.const_data_ptr<S>() + first * batch.n_targets, rows);
}

}  // namespace evometa

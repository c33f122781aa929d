// torch.ops.evometa.mlp_loss_and_grad: what MLP.loss_and_grad computes, for all candidates and tasks.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <tuple>

#include "perceptron.h"

namespace evometa {
namespace {

void check_labels(const at::Tensor& labels, int64_t n_classes) {
  const int64_t* label = labels.const_data_ptr<int64_t>();
  for (int64_t i = 0; i < labels.numel(); ++i)
    TORCH_CHECK(label[i] >= 0 && label[i] < n_classes, "label ", label[i], " is out of range for ", n_classes,
                " classes");
}

template <class S>
void run(const NetworkShape<S>& network, const at::Tensor& params, const at::Tensor& x, const at::Tensor& y,
         at::Tensor& losses, at::Tensor& grads) {
  const int64_t n_candidates = params.size(0), n_tasks = params.size(1), n_params = params.size(2);
  const int64_t n_rows = x.size(1), n_inputs = x.size(2);
  Batch<S> batch(n_rows, n_inputs);
  Perceptron<S> perceptron(network, batch.block_rows);
  for (int64_t task = 0; task < n_tasks; ++task) {
    const S* rows = x.const_data_ptr<S>() + task * n_rows * n_inputs;
    if (network.head == Head::cross_entropy)
      batch.fill(rows, y.const_data_ptr<int64_t>() + task * n_rows);
    else
      batch.fill(rows, y.const_data_ptr<S>() + task * n_rows);
    for (int64_t candidate = 0; candidate < n_candidates; ++candidate) {
      const int64_t one = candidate * n_tasks + task;
      losses.data_ptr<S>()[one] = perceptron.loss_and_grad(params.const_data_ptr<S>() + one * n_params, batch,
                                                           grads.data_ptr<S>() + one * n_params);
    }
  }
}

template <class S>
std::tuple<at::Tensor, at::Tensor> checked_run(const at::Tensor& params, const at::Tensor& x, const at::Tensor& y,
                                               at::IntArrayRef sizes, c10::string_view activation, Head head) {
  const NetworkShape<S> network{sizes.vec(), activation_named<S>({activation.data(), activation.size()}), head};
  TORCH_CHECK(network.activate, "unknown activation ", activation);
  TORCH_CHECK(params.dim() == 3 && params.size(2) == network.n_params(), "params must be (P, T, ",
              network.n_params(), ")");
  TORCH_CHECK(x.dim() == 3 && x.size(0) == params.size(1) && x.size(1) >= 1 && x.size(2) == sizes.front(),
              "x must be (T, B, ", sizes.front(), ")");
  TORCH_CHECK(y.dim() == 2 && y.size(0) == x.size(0) && y.size(1) == x.size(1), "y must be (T, B)");
  TORCH_CHECK(params.is_contiguous() && x.is_contiguous() && y.is_contiguous(), "tensors must be contiguous");
  if (head == Head::cross_entropy) check_labels(y, sizes.back());
  at::Tensor losses = at::empty({params.size(0), params.size(1)}, params.options());
  at::Tensor grads = at::empty(params.sizes(), params.options());
  run<S>(network, params, x, y, losses, grads);
  return {losses, grads};
}

std::tuple<at::Tensor, at::Tensor> mlp_loss_and_grad(const at::Tensor& params, const at::Tensor& x, const at::Tensor& y,
                                                     at::IntArrayRef sizes, c10::string_view activation,
                                                     c10::string_view target) {
  TORCH_CHECK(target == "class" || target == "value", "unknown target ", target);
  const Head head = target == "class" ? Head::cross_entropy : Head::squared_error;
  TORCH_CHECK(sizes.size() >= 2, "a network has inputs and outputs");
  for (const int64_t size : sizes) TORCH_CHECK(size >= 1, "a layer has units");
  TORCH_CHECK(head == Head::cross_entropy || sizes.back() == 1, "a value is one output");
  if (params.scalar_type() == at::kDouble) return checked_run<double>(params, x, y, sizes, activation, head);
  return checked_run<float>(params, x, y, sizes, activation, head);
}

}  // namespace
}  // namespace evometa

TORCH_LIBRARY_FRAGMENT(evometa, m) {
  m.def(
      "mlp_loss_and_grad(Tensor params, Tensor x, Tensor y, int[] sizes, str activation, str target) "
      "-> (Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(evometa, CPU, m) { m.impl("mlp_loss_and_grad", &evometa::mlp_loss_and_grad); }

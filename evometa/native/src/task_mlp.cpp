// torch.ops.evometa.mlp_loss_and_grad: what MLP.loss_and_grad computes, for all candidates and tasks.
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <tuple>

#include "perceptron_arguments.h"

namespace evometa {
namespace {

template <class S>
void run(const PerceptronShape<S>& network, const Tensor& params, const Tensor& x, const Tensor& y,
         Tensor& losses, Tensor& grads) {
  const int64_t n_candidates = params.size(0), n_tasks = params.size(1), n_params = params.size(2);
  const int64_t n_rows = x.size(1), n_inputs = x.size(2);
  Batch<S> batch(n_rows, n_inputs, network.n_targets());
  Perceptron<S> perceptron(network, batch.block_rows);
  for (int64_t task = 0; task < n_tasks; ++task) {
    fill(batch, network.head, x, y, task * n_rows, nullptr);
    for (int64_t candidate = 0; candidate < n_candidates; ++candidate) {
      const int64_t one = candidate * n_tasks + task;
      losses.data_ptr<S>()[one] = perceptron.loss_and_grad(params.const_data_ptr<S>() + one * n_params, batch,
                                                           grads.data_ptr<S>() + one * n_params);
    }
  }
}

template <class S>
std::tuple<Tensor, Tensor> checked_run(const Tensor& params, const Tensor& x, const Tensor& y, const PerceptronShape<S>& network) {
  check_data(network, x, y);
  TORCH_CHECK(params.dim() == 3 && params.size(2) == network.n_params(), "params must be (P, T, ", network.n_params(), ")");
  TORCH_CHECK(x.dim() == 3 && x.size(0) == params.size(1) && x.size(1) >= 1, "x must be (T, B, ", network.sizes.front(), ")");
  TORCH_CHECK(params.is_contiguous(), "tensors must be contiguous");
  Tensor losses = at::empty({params.size(0), params.size(1)}, params.options());
  Tensor grads = at::empty(params.sizes(), params.options());
  run<S>(network, params, x, y, losses, grads);
  return {losses, grads};
}

std::tuple<Tensor, Tensor> mlp_loss_and_grad(const Tensor& params, const Tensor& x, const Tensor& y, at::IntArrayRef sizes,
                                             c10::string_view activation, c10::string_view target) {
  if (params.scalar_type() == at::kDouble)
    return checked_run<double>(params, x, y, read_network<double>(sizes, activation, target));
  return checked_run<float>(params, x, y, read_network<float>(sizes, activation, target));
}

}  // namespace
}  // namespace evometa

TORCH_LIBRARY_FRAGMENT(evometa, m) {
  m.def(
      "mlp_loss_and_grad(Tensor params, Tensor x, Tensor y, int[] sizes, str activation, str target) "
      "-> (Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(evometa, CPU, m) { m.impl("mlp_loss_and_grad", &evometa::mlp_loss_and_grad); }

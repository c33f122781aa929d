// Operators that advance a cohort of MLP rules by one step and go back through it: evometa/rules/mlp_kernel.py.
// Their arguments are described in mlp_cohort.h.
#include <ATen/Dispatch.h>
#include <torch/library.h>

#include "mlp_backward.h"
#include "mlp_cohort.h"
#include "mlp_forward.h"

namespace evometa {
namespace {

// Writes params_after, the statistics `after` and the normalisers; params and statistics may be in place.
void mlp_advance(const Tensor& grads, const Tensor& params, const Tensor& params_after, at::TensorList before,
                 at::TensorList after, at::TensorList weights, at::TensorList hyper, const Tensor& factor,
                 const Tensor& task, const Tensor& normalisers, const Tensor& spec, at::ArrayRef<double> numbers) {
  AT_DISPATCH_FLOATING_TYPES(params.scalar_type(), "mlp_advance", [&] {
    const MlpProgram<scalar_t> program = read_program<scalar_t>(spec, numbers);
    const Cohort<scalar_t> cohort(program, {grads, params, after, weights, hyper, factor, task, normalisers});
    const Statistics<scalar_t> old = cohort.statistics(before);
    scalar_t* next = cohort.coordinates(params_after, "params_after");
    MlpForward<scalar_t> forward(program);
    for (int64_t p = 0; p < cohort.n_candidates; ++p) {
      forward.begin_candidate(cohort.weights_of(p));
      for (int64_t t = 0; t < cohort.n_tasks; ++t) {
        forward.advance(cohort.run(p, t), cohort.of_run(old, p, t), next);
        next += cohort.n_coordinates();
      }
    }
  });
}

// From the cotangents of params_after those of params, of the factor (P, T) and of the weights; `after` and the
// normalisers are what mlp_advance wrote.
void mlp_backward(const Tensor& d_params_after, const Tensor& grads, const Tensor& params, at::TensorList after,
                  at::TensorList weights, at::TensorList hyper, const Tensor& factor, const Tensor& task,
                  const Tensor& normalisers, const Tensor& spec, at::ArrayRef<double> numbers, const Tensor& d_params,
                  at::TensorList d_weights, const Tensor& d_factor) {
  AT_DISPATCH_FLOATING_TYPES(params.scalar_type(), "mlp_backward", [&] {
    const MlpProgram<scalar_t> program = read_program<scalar_t>(spec, numbers);
    const Cohort<scalar_t> cohort(program, {grads, params, after, weights, hyper, factor, task, normalisers});
    const NetworkWeights<scalar_t> found = cohort.weights(d_weights);
    const int64_t n_candidates = cohort.n_candidates, n_tasks = cohort.n_tasks;
    RunCotangents<scalar_t> run{cohort.coordinates(d_params_after, "d_params_after"), cohort.coordinates(d_params, "d_params"),
                                nullptr, nullptr, memory<scalar_t>(d_factor, {n_candidates, n_tasks}, "d_factor")};
    MlpBackward<scalar_t> backward(program);
    for (int64_t p = 0; p < n_candidates; ++p) {
      const NetworkWeights<scalar_t> own = cohort.weights_of(found, p);
      run.first = own.first;
      run.bias = own.bias;
      std::fill_n(run.first, cohort.n_first(), scalar_t(0));
      std::fill_n(run.bias, program.network.n_hidden, scalar_t(0));
      backward.begin_candidate(cohort.weights_of(p));
      for (int64_t t = 0; t < n_tasks; ++t) {
        backward.backward(cohort.run(p, t), run);
        run.params_after += cohort.n_coordinates();
        run.params += cohort.n_coordinates();
        run.factor += 1;
      }
      backward.finish_candidate(own);
    }
  });
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(evometa, m) {
  m.def(
      "mlp_advance(Tensor grads, Tensor params, Tensor(a!) params_after, Tensor[] before, Tensor(b!)[] after, "
      "Tensor[] weights, Tensor[] hyper, Tensor factor, Tensor task, Tensor(c!) normalisers, Tensor spec, "
      "float[] numbers) -> ()");
  m.def(
      "mlp_backward(Tensor d_params_after, Tensor grads, Tensor params, Tensor[] after, Tensor[] weights, "
      "Tensor[] hyper, Tensor factor, Tensor task, Tensor normalisers, Tensor spec, float[] numbers, "
      "Tensor(a!) d_params, Tensor(b!)[] d_weights, Tensor(c!) d_factor) -> ()");
}

TORCH_LIBRARY_IMPL(evometa, CPU, m) {
  m.impl("mlp_advance", mlp_advance);
  m.impl("mlp_backward", mlp_backward);
}

}  // namespace evometa

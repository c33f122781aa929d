// Operators that advance a cohort of MLP rules by one step, go back through it, and train by many steps:
// evometa/rules/mlp_kernel.py.
// Their arguments are described in mlp_cohort.h.
#include <ATen/Dispatch.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include "mlp_backward.h"
#include "mlp_cohort.h"
#include "mlp_forward.h"
#include "mlp_team.h"
#include "task_training.h"

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
    const auto advance = [&](auto forward) {
      for (int64_t p = 0; p < cohort.n_candidates; ++p) {
        const PackedWeights<scalar_t> packed = cohort.packed_weights(p, false);
        forward.begin_candidate(packed);
        for (int64_t t = 0; t < cohort.n_tasks; ++t) {
          forward.advance(cohort.run(p, t), cohort.of_run(old, p, t), next);
          next += cohort.n_coordinates();
        }
      }
    };
    if (MlpTeam<scalar_t>::pays(program))
      advance(MlpTeam<scalar_t>(program));
    else
      advance(MlpForward<scalar_t>(program));
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
      const PackedWeights<scalar_t> packed = cohort.packed_weights(p, true);
      backward.begin_candidate(packed);
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

// Params, statistics and the first losses (P, T), which only the feature "loss" asks for, are edited in place.
// factor (K, P, T or 1) and numbers (K, …) have those of every step.
template <class S>
void train_all(const Tensor& params, at::TensorList statistics, const std::optional<Tensor>& initial_losses,
               at::TensorList weights, at::TensorList hyper, const Tensor& factor, const Tensor& spec, const Tensor& numbers,
               const TaskArguments& data, const Tensor& losses) {
  TrainingTasks<S> tasks(data, params, losses);
  const int64_t n_candidates = tasks.n_candidates(), n_tasks = tasks.n_tasks(), n = params.size(2);
  TORCH_CHECK(numbers.dim() == 2 && numbers.size(0) == tasks.n_steps() && numbers.is_contiguous() &&
                  numbers.scalar_type() == at::kDouble && factor.dim() == 3 && factor.size(0) == tasks.n_steps() &&
                  factor.is_contiguous(),
              "mlp_rule: numbers and factor of every step are wanted");
  const auto numbers_at = [&](int64_t k) {
    return at::ArrayRef<double>(numbers.const_data_ptr<double>() + k * numbers.size(1), numbers.size(1));
  };
  S* const initial = initial_losses ? memory<S>(*initial_losses, {n_candidates, n_tasks}, "initial losses") : nullptr;
  MlpProgram<S> program = read_program<S>(spec, numbers_at(0));
  const Tensor grads = at::empty_like(params);
  const Tensor channel = at::empty({n_candidates, n_tasks, initial ? 1 : 0}, params.options());
  const int64_t n_tensors = static_cast<int64_t>(program.tensors.size());
  const Tensor normalisers = at::empty({n_candidates, n_tasks, n_tensors, program.network.n_within}, params.options());
  S* const all_params = params.data_ptr<S>();
  S* const all_grads = grads.data_ptr<S>();
  std::vector<PackedWeights<S>> packed;
  MlpForward<S> forward(program);
  const int64_t at_once = candidates_side_by_side(n_candidates, (3 + static_cast<int64_t>(statistics.size())) * n);
  for (int64_t t = 0; t < n_tasks; ++t)
    for (int64_t start = 0; start < n_candidates; start += at_once)
      for (int64_t k = 0; k < tasks.n_steps(); ++k) {
        program = read_program<S>(spec, numbers_at(k));
        const Tensor share = factor.select(0, k);
        const Cohort<S> cohort(program, {grads, params, statistics, weights, hyper, share, channel, normalisers});
        const Statistics<S> kept = cohort.statistics(statistics);
        for (int64_t p = static_cast<int64_t>(packed.size()); p < n_candidates; ++p)
          packed.push_back(cohort.packed_weights(p, false));
        tasks.turn_to(t, k);
        for (int64_t p = start; p < std::min(start + at_once, n_candidates); ++p) {
          const int64_t run = p * n_tasks + t;
          const S loss = tasks.loss_and_grad(p, all_params + run * n, all_grads + run * n);
          if (initial) channel.data_ptr<S>()[run] = loss_channel(loss, initial[run]);
          forward.begin_candidate(packed[p]);
          forward.advance(cohort.run(p, t), cohort.of_run(kept, p, t), all_params + run * n);
        }
      }
}

void mlp_train(const Tensor& params, at::TensorList statistics, const std::optional<Tensor>& initial_losses,
               at::TensorList weights, at::TensorList hyper, const Tensor& factor, const Tensor& spec, const Tensor& numbers,
               const Tensor& x, const Tensor& y, const Tensor& batches, at::IntArrayRef sizes, c10::string_view activation,
               c10::string_view target, const Tensor& losses) {
  const TaskArguments data{x, y, batches, sizes, activation, target};
  AT_DISPATCH_FLOATING_TYPES(params.scalar_type(), "mlp_train", [&] {
    train_all<scalar_t>(params, statistics, initial_losses, weights, hyper, factor, spec, numbers, data, losses);
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
  m.def(
      "mlp_train(Tensor(a!) params, Tensor(b!)[] statistics, Tensor(c!)? initial_losses, Tensor[] weights, "
      "Tensor[] hyper, Tensor factor, Tensor spec, Tensor numbers, Tensor x, Tensor y, Tensor batches, int[] sizes, "
      "str activation, str target, Tensor(d!) losses) -> ()");
}

TORCH_LIBRARY_IMPL(evometa, CPU, m) {
  m.impl("mlp_advance", mlp_advance);
  m.impl("mlp_backward", mlp_backward);
  m.impl("mlp_train", mlp_train);
}

}  // namespace evometa

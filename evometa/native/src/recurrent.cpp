// Operators that advance a cohort of recurrent rules by one step and go back through it:
// evometa/rules/recurrent_kernel.py. Their arguments are described in recurrent_cohort.h.
#include <torch/library.h>

#include "recurrent_cohort.h"

namespace evometa {
namespace {

constexpr int64_t kForwardVectors = 8, kBackwardVectors = 8;

// Calls body with a sweep of the program's cell.
template <class S, int64_t kVectors, class Body>
void with_sweep(const RecurrentCohort<S>& cohort, Body body) {
  constexpr int64_t kWidth = kVectors * VectorOf<S>::width;
  const auto run = [&](auto cell) {
    RecurrentSweep<S, decltype(cell), kWidth> sweep(cohort.program());
    for (int64_t p = 0; p < cohort.n_candidates(); ++p) body(sweep, p);
  };
  switch (cohort.cell()) {
    case CellKind::vanilla:
      return run(Vanilla{});
    case CellKind::gru:
      return run(Gru{});
    case CellKind::lstm:
      return run(Lstm{});
  }
}

template <class S>
void advance(const RecurrentArguments& arguments, const Tensor& params_after, at::TensorList statistics_after,
             at::TensorList carried_after, const std::optional<Tensor>& outputs) {
  const RecurrentCohort<S> cohort(arguments);
  check(params_after, arguments.grads, arguments.grads.sizes(), "params_after");
  cohort.check_statistics(statistics_after);
  cohort.check_carried(carried_after);
  TORCH_CHECK(outputs.has_value() == cohort.program().stage.normalised(), "evometa kernel: outputs go with normalisation");
  if (outputs) check(*outputs, arguments.grads, arguments.grads.sizes(), "outputs");
  with_sweep<S, kForwardVectors>(cohort, [&](auto& sweep, int64_t p) {
    sweep.forward(cohort.candidate(p), cohort.template state<S>(params_after, statistics_after, carried_after, p),
                  cohort.template of<S>(outputs, p));
  });
}

template <class S>
void backward(const RecurrentArguments& arguments, const std::optional<Tensor>& outputs, const std::optional<Tensor>& d_params_after,
              const OptionalTensors& d_carried_after, const Tensor& d_params, at::TensorList d_carried,
              at::TensorList d_weights, const std::optional<Tensor>& d_factor) {
  const RecurrentCohort<S> cohort(arguments);
  TORCH_CHECK(outputs.has_value() == cohort.program().stage.normalised(), "evometa kernel: outputs go with normalisation");
  if (outputs) check(*outputs, arguments.grads, arguments.grads.sizes(), "outputs");
  if (d_params_after) check(*d_params_after, arguments.grads, arguments.grads.sizes(), "d_params_after");
  std::vector<std::optional<Tensor>> d_after;
  for (std::size_t i = 0; i < d_carried_after.size(); ++i) {
    d_after.push_back(d_carried_after.get(i));
    if (d_after.back()) check(*d_after.back(), arguments.grads, cohort.carried_sizes(), "d_carried_after");
  }
  TORCH_CHECK(static_cast<int64_t>(d_after.size()) == cohort.n_carried(), "evometa kernel: wrong number of cotangents");
  check(d_params, arguments.grads, arguments.grads.sizes(), "d_params");
  cohort.check_carried(d_carried);
  cohort.check_weights(d_weights);
  if (d_factor) cohort.check_factor(*d_factor, "d_factor");
  std::vector<double> by_task(static_cast<std::size_t>(cohort.program().n_tasks));
  with_sweep<S, kBackwardVectors>(cohort, [&](auto& sweep, int64_t p) {
    RecurrentCotangents<S> cotangents{{cohort.template of<const S>(d_params_after, p), {}, nullptr, {}, {}},
                                      cohort.template state<S>(d_params, {}, d_carried, p),
                                      cohort.template weights<S>(d_weights, p),
                                      d_factor ? by_task.data() : nullptr};
    cohort.add_carried(d_after, p, cotangents.after);
    std::fill(by_task.begin(), by_task.end(), 0.0);
    sweep.backward(cohort.candidate(p), cohort.template of<const S>(outputs, p), cotangents);
    if (!d_factor) return;
    S* const to = cohort.template of<S>(*d_factor, p);
    std::fill_n(to, d_factor->size(1), S(0));
    for (std::size_t task = 0; task < by_task.size(); ++task)
      to[d_factor->size(1) == 1 ? 0 : task] += static_cast<S>(by_task[task]);
  });
}

void recurrent_advance(at::IntArrayRef spec, at::ArrayRef<double> numbers, const Tensor& grads, const Tensor& params,
                       const Tensor& factor, const std::optional<Tensor>& tasks, const std::optional<Tensor>& steps,
                       const OptionalTensors& hyper, at::TensorList weights, at::TensorList statistics, at::TensorList carried, Tensor params_after,
                       at::TensorList statistics_after, at::TensorList carried_after, const std::optional<Tensor>& outputs) {
  const RecurrentArguments arguments{spec, numbers, grads, params, factor, tasks, steps, hyper, weights, statistics, carried};
  if (grads.scalar_type() == at::kDouble)
    advance<double>(arguments, params_after, statistics_after, carried_after, outputs);
  else
    advance<float>(arguments, params_after, statistics_after, carried_after, outputs);
}

void recurrent_backward(at::IntArrayRef spec, at::ArrayRef<double> numbers, const Tensor& grads, const Tensor& params,
                        const Tensor& factor, const std::optional<Tensor>& tasks, const std::optional<Tensor>& steps,
                       const OptionalTensors& hyper, at::TensorList weights,
                        at::TensorList statistics, at::TensorList carried, const std::optional<Tensor>& outputs,
                        const std::optional<Tensor>& d_params_after, const OptionalTensors& d_carried_after, Tensor d_params,
                        at::TensorList d_carried, at::TensorList d_weights, const std::optional<Tensor>& d_factor) {
  const RecurrentArguments arguments{spec, numbers, grads, params, factor, tasks, steps, hyper, weights, statistics, carried};
  if (grads.scalar_type() == at::kDouble)
    backward<double>(arguments, outputs, d_params_after, d_carried_after, d_params, d_carried, d_weights, d_factor);
  else
    backward<float>(arguments, outputs, d_params_after, d_carried_after, d_params, d_carried, d_weights, d_factor);
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(evometa, m) {
  m.def(
      "recurrent_advance(int[] spec, float[] numbers, Tensor grads, Tensor params, Tensor factor, Tensor? tasks, "
      "Tensor? steps, Tensor?[] hyper, Tensor[] weights, Tensor[] statistics, Tensor[] carried, Tensor(a!) params_after, "
      "Tensor(b!)[] statistics_after, Tensor(c!)[] carried_after, Tensor(d!)? outputs) -> ()");
  m.def(
      "recurrent_backward(int[] spec, float[] numbers, Tensor grads, Tensor params, Tensor factor, Tensor? tasks, "
      "Tensor? steps, Tensor?[] hyper, Tensor[] weights, Tensor[] statistics, Tensor[] carried, Tensor? outputs, Tensor? d_params_after, "
      "Tensor?[] d_carried_after, Tensor(a!) d_params, Tensor(b!)[] d_carried, Tensor(c!)[] d_weights, "
      "Tensor(d!)? d_factor) -> ()");
}

TORCH_LIBRARY_IMPL(evometa, CPU, m) {
  m.impl("recurrent_advance", recurrent_advance);
  m.impl("recurrent_backward", recurrent_backward);
}

}  // namespace evometa

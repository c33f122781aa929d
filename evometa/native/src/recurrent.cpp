// Operators that advance a cohort of recurrent rules by one step, go back through it, and train by many steps:
// evometa/rules/recurrent_kernel.py. Their arguments are described in recurrent_cohort.h.
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include "recurrent_cohort.h"
#include "task_training.h"
#include "threads.h"

namespace evometa {
namespace {

constexpr int64_t kForwardVectors = 8, kBackwardVectors = 8;
constexpr int64_t kGrain = 1 << 11;  // coordinates that are worth a thread

template <class T>
struct Type {
  using type = T;
};

// Calls body with the type of sweep for the program's cell.
template <class S, int64_t kVectors, class Body>
void with_cell(const RecurrentCohort<S>& cohort, Body body) {
  constexpr int64_t kWidth = kVectors * VectorOf<S>::width;
  switch (cohort.cell()) {
    case CellKind::vanilla:
      return body(Type<RecurrentSweep<S, Vanilla, kWidth>>());
    case CellKind::gru:
      return body(Type<RecurrentSweep<S, Gru, kWidth>>());
    case CellKind::lstm:
      return body(Type<RecurrentSweep<S, Lstm, kWidth>>());
  }
}

// Calls body with a sweep of the program's cell and each candidate.
template <class S, int64_t kVectors, class Body>
void with_sweep(const RecurrentCohort<S>& cohort, Body body) {
  with_cell<S, kVectors>(cohort, [&](auto type) {
    typename decltype(type)::type sweep(cohort.program());
    for (int64_t p = 0; p < cohort.n_candidates(); ++p) body(sweep, p);
  });
}

// Writes the next state and, where they are normalised, the outputs of candidate p; several threads take some of its
// coordinates each, with a sweep of their own.
template <class S, class Sweep>
void advance_candidate(const RecurrentCohort<S>& cohort, int64_t p, const RecurrentState<S>& after, S* outputs,
                       PerThread<Sweep>& sweeps) {
  const RecurrentProgram<S>& program = cohort.program();
  const RecurrentCandidate<S> candidate = cohort.candidate(p);
  const auto own = [&]() -> Sweep& { return sweeps.own([&] { return std::make_unique<Sweep>(program); }); };
  const int64_t n_blocks = Sweep::n_blocks(program), grain = kGrain / Sweep::kBlock;
  share(n_blocks, grain, [&](int64_t begin, int64_t end) {
    own().begin_candidate(candidate);
    own().forward(candidate, after, outputs, begin, end);
  });
  if (!outputs) return;
  OutputNormalisers<S> normalisers(program.tensor_sizes, program.n_tasks);
  normalisers.measure(outputs);
  share(n_blocks, grain, [&](int64_t begin, int64_t end) {
    own().finish(candidate, after, outputs, normalisers, begin, end);
  });
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
  with_cell<S, kForwardVectors>(cohort, [&](auto type) {
    PerThread<typename decltype(type)::type> sweeps;
    for (int64_t p = 0; p < cohort.n_candidates(); ++p)
      advance_candidate(cohort, p, cohort.template state<S>(params_after, statistics_after, carried_after, p),
                        cohort.template of<S>(outputs, p), sweeps);
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

// What stays the same from step to step of a training, of candidate p alone.
struct TrainedCandidate {
  TrainedCandidate(const RecurrentArguments& all, int64_t p) : hyper(OptionalTensors()) {
    const auto own = [p](const Tensor& tensor) { return tensor.narrow(0, p, 1); };
    for (const Tensor& tensor : all.weights) weights.push_back(own(tensor));
    for (const Tensor& tensor : all.statistics) statistics.push_back(own(tensor));
    for (const Tensor& tensor : all.carried) carried.push_back(own(tensor));
    for (std::size_t i = 0; i < all.hyper.size(); ++i) {
      const std::optional<Tensor> given = all.hyper.get(i);
      hyper.push_back(given ? std::optional<Tensor>(own(*given)) : std::nullopt);
    }
    grads = own(all.grads), params = own(all.params), factor = all.factor.select(0, 0).narrow(0, p, 1);
    if (all.steps) steps = all.steps->select(0, 0);
  }
  RecurrentArguments arguments(const RecurrentArguments& all, const std::optional<Tensor>& tasks) const {
    return {all.spec, all.numbers, grads, params, factor, tasks, steps, hyper, weights, statistics, carried};
  }

  std::vector<Tensor> weights, statistics, carried;
  OptionalTensors hyper;
  Tensor grads, params, factor;
  std::optional<Tensor> steps;
};

// `all` are the arguments of a step, but numbers has those of the first step alone; `numbers` (K, …), all.factor
// (K, P, T or 1) and all.steps (K, C) have those of every step. Params, statistics, what is carried and the first
// losses (P, T), which only the feature "loss" asks for, are edited in place.
template <class S>
void train(const RecurrentArguments& all, const Tensor& numbers, const std::optional<Tensor>& initial_losses,
           const TaskArguments& data, const Tensor& losses) {
  TrainingTasks<S> tasks(data, all.params, losses);
  const int64_t n_steps = tasks.n_steps(), n_tasks = tasks.n_tasks(), n = all.params.size(2);
  const int64_t n_numbers = numbers.size(1), n_factors = all.factor.size(1) * all.factor.size(2);
  const int64_t n_channels = all.steps ? all.steps->size(1) : 0;
  std::optional<Tensor> channel;
  if (initial_losses) {
    check(*initial_losses, all.params, {tasks.n_candidates(), n_tasks}, "initial_losses");
    channel = at::empty({1, 1, n_tasks}, all.params.options());
  }
  for (int64_t p = 0; p < tasks.n_candidates(); ++p) {
    const TrainedCandidate own(all, p);
    RecurrentCohort<S> cohort(own.arguments(all, channel));
    const std::vector<int64_t> shape = own.grads.sizes().vec();
    const std::optional<Tensor> outputs = cohort.program().stage.normalised() ? std::optional(at::empty(shape, own.grads.options())) : std::nullopt;
    S* const params = own.params.template data_ptr<S>();
    S* const grads = own.grads.template data_ptr<S>();
    S* const initial = initial_losses ? initial_losses->template data_ptr<S>() + p * n_tasks : nullptr;
    const RecurrentState<S> after = cohort.template state<S>(own.params, own.statistics, own.carried, 0);
    S* const all_outputs = cohort.template of<S>(outputs, 0);
    OutputNormalisers<S> normalisers(cohort.program().tensor_sizes, n_tasks);
    with_sweep<S, kForwardVectors>(cohort, [&](auto& sweep, int64_t) {
      const int64_t n_blocks = sweep.n_blocks(cohort.program());
      for (int64_t k = 0; k < n_steps; ++k) {
        for (int64_t t = 0; t < n_tasks; ++t) {
          tasks.turn_to(t, k);
          const S loss = tasks.loss_and_grad(p, params + t * n, grads + t * n);
          if (channel) channel->template data_ptr<S>()[t] = loss_channel(loss, initial[t]);
        }
        cohort.turn_to({numbers.const_data_ptr<double>() + k * n_numbers, static_cast<std::size_t>(n_numbers)},
                       n_channels ? all.steps->template const_data_ptr<S>() + k * n_channels : nullptr,
                       all.factor.template const_data_ptr<S>() + k * n_factors + p * all.factor.size(2));
        const RecurrentCandidate<S> candidate = cohort.candidate(0);
        if (k == 0 || n_channels) sweep.begin_candidate(candidate);
        sweep.forward(candidate, after, all_outputs, 0, n_blocks);
        if (!all_outputs) continue;
        normalisers.measure(all_outputs);
        sweep.finish(candidate, after, all_outputs, normalisers, 0, n_blocks);
      }
    });
  }
}

void recurrent_train(at::IntArrayRef spec, const Tensor& numbers, const Tensor& params, const Tensor& factor,
                     const std::optional<Tensor>& initial_losses, const std::optional<Tensor>& steps,
                     const OptionalTensors& hyper, at::TensorList weights, at::TensorList statistics, at::TensorList carried,
                     const Tensor& x, const Tensor& y, const Tensor& batches, at::IntArrayRef sizes,
                     c10::string_view activation, c10::string_view target, const Tensor& losses) {
  const Tensor grads = at::empty_like(params);
  const TaskArguments data{x, y, batches, sizes, activation, target};
  TORCH_CHECK(numbers.dim() == 2 && numbers.scalar_type() == at::kDouble && numbers.is_contiguous() &&
                  batches.dim() == 3 && numbers.size(0) == batches.size(1) && params.dim() == 3,
              "evometa kernel: numbers of every step are wanted");
  TORCH_CHECK(factor.dim() == 3 && factor.size(0) == numbers.size(0) && factor.size(1) == params.size(0) && factor.is_contiguous(),
              "evometa kernel: factors of every step and candidate are wanted");
  for (const at::TensorList tensors : {weights, statistics, carried})  // now, before any candidate is trained
    for (const Tensor& tensor : tensors)
      TORCH_CHECK(tensor.dim() >= 1 && tensor.size(0) == params.size(0), "evometa kernel: tensors of ", params.size(0),
                  " candidates are wanted");
  TORCH_CHECK(!steps || (steps->dim() == 2 && steps->size(0) == numbers.size(0) && steps->is_contiguous()),
              "evometa kernel: channels of every step are wanted");
  const std::optional<Tensor> no_tasks;
  const at::ArrayRef<double> first(numbers.const_data_ptr<double>(), static_cast<std::size_t>(numbers.size(1)));
  const RecurrentArguments all{spec, first, grads, params, factor, no_tasks, steps, hyper, weights, statistics, carried};
  if (params.scalar_type() == at::kDouble)
    train<double>(all, numbers, initial_losses, data, losses);
  else
    train<float>(all, numbers, initial_losses, data, losses);
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
  m.def(
      "recurrent_train(int[] spec, Tensor numbers, Tensor(a!) params, Tensor factor, Tensor(b!)? initial_losses, "
      "Tensor? steps, Tensor?[] hyper, Tensor[] weights, Tensor(c!)[] statistics, Tensor(d!)[] carried, Tensor x, "
      "Tensor y, Tensor batches, int[] sizes, str activation, str target, Tensor(e!) losses) -> ()");
}

TORCH_LIBRARY_IMPL(evometa, CPU, m) {
  m.impl("recurrent_advance", recurrent_advance);
  m.impl("recurrent_backward", recurrent_backward);
  m.impl("recurrent_train", recurrent_train);
}

}  // namespace evometa

// torch.ops.evometa.moments_step and moments_train: one step of any hand-designed rule for all candidates and tasks,
// and a training of many.
#include "moments.h"

#include <ATen/core/List.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include <array>
#include <optional>
#include <vector>

#include "task_training.h"
#include "threads.h"

namespace evometa {
namespace {

constexpr int64_t kGrain = 1 << 15;  // coordinates that are worth a thread, as in PyTorch's own elementwise operators

Moment moment_of(c10::string_view name) {
  if (name == "none") return Moment::none;
  if (name == "average") return Moment::average;
  TORCH_CHECK(name == "sum" || name == "total", "unknown moment ", name);
  return Moment::sum;
}

Direction direction_of(c10::string_view name) {
  if (name == "gradient") return Direction::gradient;
  if (name == "moment") return Direction::moment;
  if (name == "lookahead") return Direction::lookahead;
  TORCH_CHECK(name == "mixture", "unknown direction ", name);
  return Direction::mixture;
}

// A number of each run at each step, given as () or (K or 1, P or 1, T or 1, 1), the first axes missing if they
// are 1, or left out.
template <class S>
class PerRun {
 public:
  PerRun(const std::optional<Tensor>& given, at::IntArrayRef runs, S otherwise) : otherwise_(otherwise) {
    if (!given) return;
    held_ = given->expand({runs[0], runs[1], runs[2], 1});
    data_ = held_.const_data_ptr<S>();
    for (int axis = 0; axis < 3; ++axis) strides_[axis] = held_.stride(axis);
  }
  S at(int64_t step, int64_t candidate, int64_t task) const {
    return data_ ? data_[step * strides_[0] + candidate * strides_[1] + task * strides_[2]] : otherwise_;
  }

 private:
  S otherwise_;
  Tensor held_;
  const S* data_ = nullptr;
  int64_t strides_[3] = {};
};

using Coefficients = c10::List<std::optional<Tensor>>;

// All numbers of a training; `runs` are K, P and T.
template <class S>
class RunCoefficients {
 public:
  RunCoefficients(const Coefficients& given, at::IntArrayRef runs) {
    TORCH_CHECK(given.size() == kOtherwise.size(), kOtherwise.size(), " coefficients are wanted");
    for (std::size_t i = 0; i < kOtherwise.size(); ++i) numbers_.emplace_back(given.get(i), runs, kOtherwise[i]);
  }
  StepCoefficients<S> at(int64_t step, int64_t p, int64_t t) const {
    const auto number = [&](std::size_t i) { return numbers_[i].at(step, p, t); };
    return {number(0), number(1), number(2), number(3), number(4), number(7) * number(5), number(7) * number(6)};
  }

 private:
  // first, second, of_gradient, of_moment, eps, scale, decay and the schedule's factor where they are left out
  static constexpr std::array<S, 8> kOtherwise{1, 1, 1, 1, 0, 1, 0, 1};
  std::vector<PerRun<S>> numbers_;
};

struct Tensors {
  const Tensor &grads, &params;
  const std::optional<Tensor>&first, &second;
  const Tensor& next_params;
  const std::optional<Tensor>&next_first, &next_second;
};

template <class S>
StepPointers<S> pointers(const Tensors& tensors) {
  const auto read = [](const std::optional<Tensor>& from) { return from ? from->const_data_ptr<S>() : nullptr; };
  const auto write = [](const std::optional<Tensor>& to) { return to ? to->data_ptr<S>() : nullptr; };
  return {tensors.grads.const_data_ptr<S>(), tensors.params.const_data_ptr<S>(), read(tensors.first), read(tensors.second),
          tensors.next_params.data_ptr<S>(), write(tensors.next_first),          write(tensors.next_second)};
}

template <class S>
void step_all(const MomentsRule& rule, const Coefficients& given, const Tensors& tensors) {
  const int64_t n_candidates = tensors.params.size(0), n_tasks = tensors.params.size(1), n = tensors.params.size(2);
  const RunCoefficients<S> coefficients(given, {1, n_candidates, n_tasks});
  const StepPointers<S> all = pointers<S>(tensors);
  const StepFunction<S> step = step_function<S>(rule);
  constexpr int64_t w = VectorOf<S>::width;
  for (int64_t p = 0; p < n_candidates; ++p)
    for (int64_t t = 0; t < n_tasks; ++t) {
      const StepCoefficients<S> own = coefficients.at(0, p, t);
      const StepPointers<S> run = all.from((p * n_tasks + t) * n);
      share((n + w - 1) / w, kGrain / w, [&](int64_t begin, int64_t end) {  // in whole vectors but for the last
        step(rule, own, run.from(begin * w), std::min(end * w, n) - begin * w);
      });
    }
}

template <class S>
void train_all(const MomentsRule& rule, const Coefficients& given, const Tensors& tensors, const TaskArguments& data,
               const Tensor& losses) {
  TrainingTasks<S> tasks(data, tensors.params, losses);
  const int64_t n_candidates = tasks.n_candidates(), n_tasks = tasks.n_tasks(), n = tensors.params.size(2);
  const RunCoefficients<S> coefficients(given, {tasks.n_steps(), n_candidates, n_tasks});
  const StepPointers<S> all = pointers<S>(tensors);
  const StepFunction<S> step = step_function<S>(rule);
  S* const grads = tensors.grads.data_ptr<S>();
  const int64_t n_kept = 2 + (rule.first != Moment::none) + (rule.second != Moment::none);
  const int64_t at_once = candidates_side_by_side(n_candidates, n_kept * n);
  for (int64_t t = 0; t < n_tasks; ++t)
    for (int64_t start = 0; start < n_candidates; start += at_once)
      for (int64_t k = 0; k < tasks.n_steps(); ++k) {
        tasks.turn_to(t, k);
        for (int64_t p = start; p < std::min(start + at_once, n_candidates); ++p) {
          const int64_t run = (p * n_tasks + t) * n;
          tasks.loss_and_grad(p, all.params + run, grads + run);
          step(rule, coefficients.at(k, p, t), all.from(run), n);
        }
      }
}

// The rule, once its tensors are known to be right.
MomentsRule checked_rule(const Tensors& tensors, c10::string_view direction, c10::string_view first, c10::string_view second,
                         bool sign) {
  const MomentsRule rule{direction_of(direction), moment_of(first), moment_of(second), sign};
  const Tensor& params = tensors.params;
  TORCH_CHECK(params.dim() == 3, "params must be (P, T, N)");
  TORCH_CHECK(params.scalar_type() == at::kFloat || params.scalar_type() == at::kDouble, "params must be float32 or float64");
  TORCH_CHECK(rule.direction == Direction::gradient || rule.first != Moment::none, "a direction needs its moment");
  TORCH_CHECK(rule.direction != Direction::mixture || rule.first == Moment::average, "a mixture is of averages");
  const auto check = [&](const Tensor& tensor) {
    TORCH_CHECK(tensor.sizes() == params.sizes() && tensor.scalar_type() == params.scalar_type() &&
                    tensor.is_contiguous(),
                "all tensors must be contiguous and like params");
  };
  const auto check_moment = [&](Moment moment, const std::optional<Tensor>& before,
                                const std::optional<Tensor>& after) {
    TORCH_CHECK(before.has_value() == (moment != Moment::none) && after.has_value() == before.has_value(),
                "a moment must be given, and its next value, exactly where the rule keeps it");
    if (before) check(*before), check(*after);
  };
  check(tensors.grads), check(params), check(tensors.next_params);
  check_moment(rule.first, tensors.first, tensors.next_first);
  check_moment(rule.second, tensors.second, tensors.next_second);
  return rule;
}

void moments_step(const Tensor& grads, const Tensor& params, const std::optional<Tensor>& first,
                  const std::optional<Tensor>& second, c10::string_view direction, c10::string_view first_moment,
                  c10::string_view second_moment, bool sign, const Coefficients& coefficients, Tensor next_params,
                  const std::optional<Tensor>& next_first, const std::optional<Tensor>& next_second) {
  const Tensors tensors{grads, params, first, second, next_params, next_first, next_second};
  const MomentsRule rule = checked_rule(tensors, direction, first_moment, second_moment, sign);
  if (params.scalar_type() == at::kFloat)
    step_all<float>(rule, coefficients, tensors);
  else
    step_all<double>(rule, coefficients, tensors);
}

// Params and moments are edited in place.
void moments_train(const Tensor& params, const std::optional<Tensor>& first, const std::optional<Tensor>& second,
                   c10::string_view direction, c10::string_view first_moment, c10::string_view second_moment, bool sign,
                   const Coefficients& coefficients, const Tensor& x, const Tensor& y, const Tensor& batches,
                   at::IntArrayRef sizes, c10::string_view activation, c10::string_view target, const Tensor& losses) {
  const Tensor grads = at::empty_like(params);
  const Tensors tensors{grads, params, first, second, params, first, second};
  const MomentsRule rule = checked_rule(tensors, direction, first_moment, second_moment, sign);
  const TaskArguments data{x, y, batches, sizes, activation, target};
  if (params.scalar_type() == at::kFloat)
    train_all<float>(rule, coefficients, tensors, data, losses);
  else
    train_all<double>(rule, coefficients, tensors, data, losses);
}

}  // namespace
}  // namespace evometa

TORCH_LIBRARY_FRAGMENT(evometa, m) {
  m.def(
      "moments_step(Tensor grads, Tensor params, Tensor? first, Tensor? second, str direction, str first_moment, "
      "str second_moment, bool sign, Tensor?[] coefficients, Tensor(a!) next_params, Tensor(b!)? next_first, "
      "Tensor(c!)? next_second) -> ()");
  m.def(
      "moments_train(Tensor(a!) params, Tensor(b!)? first, Tensor(c!)? second, str direction, str first_moment, "
      "str second_moment, bool sign, Tensor?[] coefficients, Tensor x, Tensor y, Tensor batches, int[] sizes, "
      "str activation, str target, Tensor(d!) losses) -> ()");
}

TORCH_LIBRARY_IMPL(evometa, CPU, m) {
  m.impl("moments_step", &evometa::moments_step);
  m.impl("moments_train", &evometa::moments_train);
}

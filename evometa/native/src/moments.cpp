// torch.ops.evometa.moments_step: one step of any hand-designed rule for all candidates and tasks.
#include "moments.h"

#include <ATen/core/List.h>
#include <ATen/core/Tensor.h>
#include <torch/library.h>

#include <optional>

namespace evometa {
namespace {

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

// A number of each run, given as () or (P or 1, T or 1, 1), or left out.
template <class S>
class PerRun {
 public:
  PerRun(const std::optional<at::Tensor>& given, int64_t n_candidates, int64_t n_tasks, S otherwise)
      : otherwise_(otherwise) {
    if (!given) return;
    held_ = given->expand({n_candidates, n_tasks, 1});
    data_ = held_.const_data_ptr<S>();
    candidate_ = held_.stride(0);
    task_ = held_.stride(1);
  }
  S at(int64_t candidate, int64_t task) const {
    return data_ ? data_[candidate * candidate_ + task * task_] : otherwise_;
  }

 private:
  S otherwise_;
  at::Tensor held_;
  const S* data_ = nullptr;
  int64_t candidate_ = 0, task_ = 0;
};

using Coefficients = c10::List<std::optional<at::Tensor>>;

struct Tensors {
  const at::Tensor &grads, &params;
  const std::optional<at::Tensor>&first, &second;
  const at::Tensor& next_params;
  const std::optional<at::Tensor>&next_first, &next_second;
};

template <class S>
void step_all(const MomentsRule& rule, const Coefficients& coefficients, const Tensors& tensors) {
  const int64_t n_candidates = tensors.params.size(0), n_tasks = tensors.params.size(1), n = tensors.params.size(2);
  const auto number = [&](int64_t index, S otherwise) {
    return PerRun<S>(coefficients.get(index), n_candidates, n_tasks, otherwise);
  };
  const PerRun<S> first = number(0, 1), second = number(1, 1), of_gradient = number(2, 1), of_moment = number(3, 1);
  const PerRun<S> eps = number(4, 0), scale = number(5, 1), decay = number(6, 0), factor = number(7, 1);
  const auto read = [](const std::optional<at::Tensor>& from) { return from ? from->const_data_ptr<S>() : nullptr; };
  const auto write = [](const std::optional<at::Tensor>& to) { return to ? to->data_ptr<S>() : nullptr; };
  const StepPointers<S> all{tensors.grads.const_data_ptr<S>(), tensors.params.const_data_ptr<S>(),
                            read(tensors.first),               read(tensors.second),
                            tensors.next_params.data_ptr<S>(), write(tensors.next_first),
                            write(tensors.next_second)};
  const StepFunction<S> step = step_function<S>(rule);
  for (int64_t p = 0; p < n_candidates; ++p)
    for (int64_t t = 0; t < n_tasks; ++t) {
      const S share = factor.at(p, t);
      step(rule,
           {first.at(p, t), second.at(p, t), of_gradient.at(p, t), of_moment.at(p, t), eps.at(p, t),
            share * scale.at(p, t), share * decay.at(p, t)},
           all.from((p * n_tasks + t) * n), n);
    }
}

void moments_step(const at::Tensor& grads, const at::Tensor& params, const std::optional<at::Tensor>& first,
                  const std::optional<at::Tensor>& second, c10::string_view direction, c10::string_view first_moment,
                  c10::string_view second_moment, bool sign, const Coefficients& coefficients, at::Tensor next_params,
                  const std::optional<at::Tensor>& next_first, const std::optional<at::Tensor>& next_second) {
  const MomentsRule rule{direction_of(direction), moment_of(first_moment), moment_of(second_moment), sign};
  TORCH_CHECK(params.dim() == 3, "params must be (P, T, N)");
  TORCH_CHECK(rule.direction == Direction::gradient || rule.first != Moment::none, "a direction needs its moment");
  TORCH_CHECK(rule.direction != Direction::mixture || rule.first == Moment::average, "a mixture is of averages");
  const auto check = [&](const at::Tensor& tensor) {
    TORCH_CHECK(tensor.sizes() == params.sizes() && tensor.scalar_type() == params.scalar_type() &&
                    tensor.is_contiguous(),
                "all tensors must be contiguous and like params");
  };
  const auto check_moment = [&](Moment moment, const std::optional<at::Tensor>& before,
                                const std::optional<at::Tensor>& after) {
    TORCH_CHECK(before.has_value() == (moment != Moment::none) && after.has_value() == before.has_value(),
                "a moment must be given, and its next value, exactly where the rule keeps it");
    if (before) check(*before), check(*after);
  };
  check(grads), check(params), check(next_params);
  check_moment(rule.first, first, next_first);
  check_moment(rule.second, second, next_second);
  TORCH_CHECK(coefficients.size() == 8, "8 coefficients are wanted");
  const Tensors tensors{grads, params, first, second, next_params, next_first, next_second};
  if (params.scalar_type() == at::kFloat) {
    step_all<float>(rule, coefficients, tensors);
  } else {
    TORCH_CHECK(params.scalar_type() == at::kDouble, "params must be float32 or float64");
    step_all<double>(rule, coefficients, tensors);
  }
}

}  // namespace
}  // namespace evometa

TORCH_LIBRARY_FRAGMENT(evometa, m) {
  m.def(
      "moments_step(Tensor grads, Tensor params, Tensor? first, Tensor? second, str direction, str first_moment, "
      "str second_moment, bool sign, Tensor?[] coefficients, Tensor(a!) next_params, Tensor(b!)? next_first, "
      "Tensor(c!)? next_second) -> ()");
}

TORCH_LIBRARY_IMPL(evometa, CPU, m) { m.impl("moments_step", &evometa::moments_step); }

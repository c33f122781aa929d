// One step of any hand-designed rule on plain pointers: elementwise over the coordinates, so bound by memory;
// gradient, params and moments are read once and written once.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>

#include "vector.h"

namespace evometa {

// How a moment m gathers x with a weight w: sum: w·m + x; average: m + w·(x − m).
enum class Moment { none, sum, average };

// What a step follows: the gradient g, the moment m′, of_gradient·g + of_moment·m′, or the average of g with
// the moment as it was, of weight of_gradient.
enum class Direction { gradient, moment, lookahead, mixture };

struct MomentsRule {
  Direction direction;
  Moment first, second;
  bool sign;
};

// Numbers of one run: params += scale·direction / (√v′ + eps) − decay·params.
template <class S>
struct StepCoefficients {
  S first, second;  // weights of the moments
  S of_gradient, of_moment;
  S eps, scale, decay;
};

template <class S>
struct StepPointers {
  const S *grads, *params, *first, *second;  // a moment that the rule does not keep is null
  S *next_params, *next_first, *next_second;  // may be the same memory

  StepPointers from(int64_t n) const {
    return {grads + n,       params + n,     first ? first + n : nullptr,           second ? second + n : nullptr,
            next_params + n, next_first ? next_first + n : nullptr, next_second ? next_second + n : nullptr};
  }
};

// m + w·(x − m), told from the nearer side as torch.lerp does: w = 1 gives x exactly.
template <class S>
class MovingAverage {
 public:
  explicit MovingAverage(S weight)
      : nearer_x_(splat<S>(weight < S(0.5) ? 0 : 1)), weight_(splat<S>(weight < S(0.5) ? weight : weight - 1)) {}
  EVOMETA_INLINE Vector<S> of(Vector<S> m, Vector<S> x) const {
    return (nearer_x_ > Vector<S>{} ? x : m) + weight_ * (x - m);
  }

 private:
  Vector<S> nearer_x_, weight_;
};

// A moment that fades must not end among the subnormal numbers, with which some processors reckon slowly.
template <class S>
EVOMETA_INLINE Vector<S> without_subnormal(Vector<S> x) {
  return abs_of(x) < splat(std::numeric_limits<S>::min()) ? Vector<S>{} : x;
}

// n coordinates, in whole vectors.
template <class S, Moment kFirst, Moment kSecond>
inline void step_vectors(MomentsRule rule, const StepCoefficients<S>& c, StepPointers<S> at, int64_t n) {
  using V = Vector<S>;
  const MovingAverage<S> first(c.first), second(c.second), mixture(c.of_gradient);
  const V zero{}, one = splat<S>(1), tiny = splat(std::numeric_limits<S>::min());
  const V kept_first = splat(c.first), kept_second = splat(c.second);
  const V of_gradient = splat(c.of_gradient), of_moment = splat(c.of_moment);
  const V eps = splat(c.eps), scale = splat(c.scale), decay = splat(c.decay);
  for (int64_t i = 0; i < n; i += VectorOf<S>::width) {
    const V g = load(at.grads + i);
    V direction = g;
    if (kFirst != Moment::none) {
      const V before = load(at.first + i);
      const V m = without_subnormal<S>(kFirst == Moment::sum ? kept_first * before + g : first.of(before, g));
      store(at.next_first + i, m);
      if (rule.direction == Direction::moment) direction = m;
      if (rule.direction == Direction::lookahead) direction = of_gradient * g + of_moment * m;
      if (rule.direction == Direction::mixture) direction = mixture.of(before, g);
    }
    if (kSecond != Moment::none) {
      const V before = load(at.second + i), square = g * g;
      const V gathered = kSecond == Moment::sum ? kept_second * before + square : second.of(before, square);
      const V v = without_subnormal<S>(gathered);
      store(at.next_second + i, v);
      direction /= sqrt_of(v < tiny ? tiny : v) + eps;
    }
    if (rule.sign) direction = (direction > zero ? one : zero) - (direction < zero ? one : zero);
    const V params = load(at.params + i);
    store(at.next_params + i, params + (scale * direction - decay * params));
  }
}

// One run of n coordinates; the last go through a vector filled up with zeros.
template <class S, Moment kFirst, Moment kSecond>
inline void step_run(const MomentsRule& rule, const StepCoefficients<S>& c, const StepPointers<S>& at, int64_t n) {
  constexpr int w = VectorOf<S>::width;
  const int64_t whole = n / w * w, rest = n - whole;
  step_vectors<S, kFirst, kSecond>(rule, c, at, whole);
  if (rest == 0) return;
  const StepPointers<S> last = at.from(whole);
  S grads[w] = {}, params[w] = {}, first[w] = {}, second[w] = {};
  std::copy_n(last.grads, rest, grads);
  std::copy_n(last.params, rest, params);
  if (kFirst != Moment::none) std::copy_n(last.first, rest, first);
  if (kSecond != Moment::none) std::copy_n(last.second, rest, second);
  step_vectors<S, kFirst, kSecond>(rule, c, {grads, params, first, second, params, first, second}, w);
  std::copy_n(params, rest, last.next_params);
  if (kFirst != Moment::none) std::copy_n(first, rest, last.next_first);
  if (kSecond != Moment::none) std::copy_n(second, rest, last.next_second);
}

template <class S>
using StepFunction = void (*)(const MomentsRule&, const StepCoefficients<S>&, const StepPointers<S>&, int64_t);

template <class S, Moment kFirst>
StepFunction<S> step_function(Moment second) {
  if (second == Moment::none) return step_run<S, kFirst, Moment::none>;
  return second == Moment::sum ? step_run<S, kFirst, Moment::sum> : step_run<S, kFirst, Moment::average>;
}

template <class S>
StepFunction<S> step_function(const MomentsRule& rule) {
  if (rule.first == Moment::none) return step_function<S, Moment::none>(rule.second);
  return rule.first == Moment::sum ? step_function<S, Moment::sum>(rule.second)
                                   : step_function<S, Moment::average>(rule.second);
}

}  // namespace evometa

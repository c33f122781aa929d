// The output stage of learned rules: from a network's outputs to the step; evometa/rules/output.py defines it.
//
// Blocks are rows of `width` numbers, a multiple of the vector width. Outputs normalised over a tensor need all
// of it first: normalise() them in place, then take steps as with direct outputs.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <stdexcept>

#include "activations.h"
#include "coordinate_features.h"

namespace evometa {

// Numbers of evometa/rules/output_program.py.
enum class Parametrisation : int64_t { direct, direction_magnitude, rms_normalised };
enum class Nominal : int64_t { none, sgd, adam };
enum class Combine : int64_t { add, scale };

constexpr double kScaleBound = 2.302585092994045684;  // output.SCALE_BOUND
constexpr double kAdamEpsilon = 1e-8;                 // output.ADAM_EPSILON
constexpr double kAdamRootEpsilon = 1e-30;            // output.ROOT_EPSILON
constexpr double kOutputEpsilon = 1e-8;               // output.OUTPUT_EPSILON

struct OutputStage {
  Parametrisation parametrisation;
  Nominal nominal;
  Combine combine;

  static OutputStage read(Reader<int64_t>& spec) {
    const int64_t parametrisation = spec.next(), nominal = spec.next(), combine = spec.next();
    if (std::min({parametrisation, nominal, combine}) < 0 || parametrisation > 2 || nominal > 2 || combine > 1)
      throw std::invalid_argument("evometa kernel: unknown output stage");
    return {static_cast<Parametrisation>(parametrisation), static_cast<Nominal>(nominal), static_cast<Combine>(combine)};
  }
  int64_t n_outputs() const { return parametrisation == Parametrisation::direction_magnitude ? 2 : 1; }
  bool normalised() const { return parametrisation == Parametrisation::rms_normalised; }
};

// Of one candidate at one step.
template <class S>
struct OutputNumbers {
  S lr, magnitude_scale, nominal_lr;
  S nominal_gradient;                        // the gradient's share of Adam's numerator
  S momentum_correction, square_correction;  // of the averages that Adam divides
};

// Statistics are those after this step; rows that the stage does not read may be null.
template <class S>
struct OutputRows {
  const S* outputs;  // [n_outputs][width]
  const S* grads;
  const S* momentum;
  const S* second_moment;
};

// Choices are made outside the loops, whose constants then stay in registers.

template <class S>
EVOMETA_INLINE Vector<S> magnitude_of(Vector<S> output, S scale) {
  return bounded_exp<S>(output * scale);
}

// Calls body(learned), where learned(i) is a vector of lr·u.
template <class S, class Body>
inline void with_learned(const OutputStage& stage, const OutputNumbers<S>& numbers, const OutputRows<S>& rows,
                         int64_t width, Body body) {
  const S* outputs = rows.outputs;
  const S lr = numbers.lr, scale = numbers.magnitude_scale;
  if (stage.n_outputs() == 1) return body([=](int64_t i) { return Vector<S>(load(outputs + i) * lr); });
  body([=](int64_t i) { return Vector<S>(load(outputs + i) * lr * magnitude_of<S>(load(outputs + width + i), scale)); });
}

// Calls body(nominal), where nominal(i) is a vector of the nominal steps.
template <class S, class Body>
inline void with_nominal(const OutputStage& stage, const OutputNumbers<S>& numbers, const OutputRows<S>& rows, Body body) {
  if (stage.nominal == Nominal::sgd) {
    const S* grads = rows.grads;
    const S factor = -numbers.nominal_lr;
    return body([=](int64_t i) { return Vector<S>(load(grads + i) * factor); });
  }
  const S *grads = rows.grads, *momentum = rows.momentum, *second_moment = rows.second_moment;
  const S of_gradient = -numbers.nominal_lr * numbers.nominal_gradient;
  const S of_momentum = -numbers.nominal_lr * (S(1) - numbers.nominal_gradient) * numbers.momentum_correction;
  const S correction = numbers.square_correction;
  body([=](int64_t i) {
    const Vector<S> mean_square = load(second_moment + i) * correction + static_cast<S>(kAdamRootEpsilon);
    const Vector<S> numerator = load(momentum + i) * of_momentum + load(grads + i) * of_gradient;
    return Vector<S>(numerator / (sqrt_of(mean_square) + static_cast<S>(kAdamEpsilon)));
  });
}

// A learned factor on a nominal step is exp(s·t) with t = tanh(learned/s).
template <class S>
EVOMETA_INLINE Vector<S> bounded(Vector<S> learned) {
  return tanh_of<S>(learned * static_cast<S>(1.0 / kScaleBound));
}
template <class S>
EVOMETA_INLINE Vector<S> scale_of(Vector<S> t) {
  return bounded_exp<S>(t * static_cast<S>(kScaleBound));
}

// The steps of a block, to be multiplied with the schedule's factor and added to the params.
template <class S>
inline void steps(const OutputStage& stage, const OutputNumbers<S>& numbers, const OutputRows<S>& rows, int64_t width,
                  S* step) {
  with_learned(stage, numbers, rows, width, [=](auto learned) { fill_row(step, width, learned); });
  if (stage.nominal == Nominal::none) return;
  if (stage.combine == Combine::scale) fill_row(step, width, [=](int64_t i) { return scale_of<S>(bounded<S>(load(step + i))); });
  with_nominal(stage, numbers, rows, [&](auto nominal) {
    if (stage.combine == Combine::scale)
      fill_row(step, width, [=](int64_t i) { return Vector<S>(nominal(i) * load(step + i)); });
    else
      fill_row(step, width, [=](int64_t i) { return Vector<S>(nominal(i) + load(step + i)); });
  });
}

// Cotangents of the outputs, d_outputs[n_outputs][width], from those of the steps.
template <class S>
inline void steps_backward(const OutputStage& stage, const OutputNumbers<S>& numbers, const OutputRows<S>& rows,
                           int64_t width, const S* d_step, S* d_outputs) {
  const S lr = numbers.lr;
  if (stage.nominal == Nominal::none || stage.combine == Combine::add) {
    fill_row(d_outputs, width, [=](int64_t i) { return Vector<S>(load(d_step + i) * lr); });
  } else {
    with_learned(stage, numbers, rows, width, [=](auto learned) {
      fill_row(d_outputs, width, [=](int64_t i) {
        const Vector<S> t = bounded<S>(learned(i));
        return Vector<S>(load(d_step + i) * lr * scale_of<S>(t) * (S(1) - t * t));
      });
    });
    with_nominal(stage, numbers, rows, [=](auto nominal) {
      fill_row(d_outputs, width, [=](int64_t i) { return Vector<S>(load(d_outputs + i) * nominal(i)); });
    });
  }
  if (stage.n_outputs() == 1) return;
  const S *outputs = rows.outputs, scale = numbers.magnitude_scale;
  for (int64_t i = 0; i < width; i += VectorOf<S>::width) {
    const Vector<S> cotangent = load(d_outputs + i) * magnitude_of<S>(load(outputs + width + i), scale);
    store(d_outputs + i, cotangent);
    store(d_outputs + width + i, cotangent * load(outputs + i) * scale);
  }
}

// ---- outputs normalised over a tensor of any size --------------------------------------------------------------

template <class S>
constexpr int64_t kStretch = 128 * VectorOf<S>::width;

// Σ aᵢ·bᵢ, in vectors summed over short stretches so that a float's rounding does not grow with n.
template <class S>
inline double inner_product(const S* a, const S* b, int64_t n) {
  constexpr int64_t lanes = VectorOf<S>::width, stretch = kStretch<S>;
  double total = 0;
  for (int64_t start = 0; start < n; start += stretch) {
    const int64_t stop = std::min(n, start + stretch), whole = stop - (stop - start) % lanes;
    Vector<S> sums{}, last_a{}, last_b{};
    for (int64_t i = start; i < whole; i += lanes) sums += load(a + i) * load(b + i);
    std::memcpy(&last_a, a + whole, static_cast<std::size_t>(stop - whole) * sizeof(S));
    std::memcpy(&last_b, b + whole, static_cast<std::size_t>(stop - whole) * sizeof(S));
    total += static_cast<double>(sum_of<S>(sums + last_a * last_b));
  }
  return total;
}

// What the outputs of one tensor are multiplied by, told from the sum of their squares.
template <class S>
inline S normaliser_of(double squares, int64_t n) {
  return static_cast<S>(1.0 / std::sqrt(squares / static_cast<double>(n) + kOutputEpsilon));
}

// Divides the outputs of one tensor by their root mean square, in place; returns the factor.
template <class S>
inline S normalise(S* outputs, int64_t n) {
  const S scale = normaliser_of<S>(inner_product(outputs, outputs, n), n);
  for (int64_t i = 0; i < n; ++i) outputs[i] *= scale;
  return scale;
}

// Cotangents of the normalised outputs → those of the outputs, in place.
template <class S>
inline void normalise_backward(const S* normalised, S scale, int64_t n, S* cotangents) {
  const S along = static_cast<S>(inner_product(normalised, cotangents, n) / static_cast<double>(n));
  for (int64_t i = 0; i < n; ++i) cotangents[i] = scale * (cotangents[i] - normalised[i] * along);
}

}  // namespace evometa

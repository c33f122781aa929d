// Activations h(z) of a network together with their slopes h′(z), which share what is costly.
#pragma once

#include <cmath>
#include <cstdint>
#include <locale>
#include <sstream>
#include <string>
#include <string_view>

#include "vector.h"

namespace evometa {

template <class S>
struct Activated {
  Vector<S> value, slope;
};

// Φ(z), the normal distribution's share below z, and its density φ(z).
template <class S>
struct Normal {
  Vector<S> share, density;
};

EVOMETA_INLINE Normal<float> normal_of(Vector<float> z) {
  const Vector<float> bell = exp_of(-0.5f * z * z);
  // Φ(−|z|) / bell as a polynomial of 1 / (1 + 0.3·|z|), fitted to a relative error of 1.3e-7 up to |z| = 13.5.
  const Vector<float> t = 1.0f / (1.0f + 0.3f * abs_of(z));
  Vector<float> tail = splat(3.593171015e-2f);
  tail = tail * t - 1.582758874e-1f;
  tail = tail * t + 2.082064003e-1f;
  tail = tail * t - 5.539363623e-2f;
  tail = tail * t + 1.294690818e-1f;
  tail = tail * t + 9.963753074e-2f;
  tail = tail * t + 1.207983494e-1f;
  tail = tail * t + 1.196263880e-1f;
  tail *= t * bell;
  return {z > 0.0f ? 1.0f - tail : tail, 0.3989422804f * bell};
}

EVOMETA_INLINE Normal<double> normal_of(Vector<double> z) {
  return {lane_by_lane<double>(z, [](double v) { return 0.5 * (1 + std::erf(v * 0.70710678118654752440)); }),
          0.39894228040143267794 * exp_of(-0.5 * z * z)};
}

template <class S>
EVOMETA_INLINE Vector<S> logistic_of(Vector<S> z) {
  return S(1) / (S(1) + exp_of(-z));
}

struct Relu {
  template <class S>
  static EVOMETA_INLINE Activated<S> of(Vector<S> z) {
    const Vector<S> zero{};
    return {z < zero ? zero : z, z > zero ? splat<S>(1) : zero};  // NaN is not below 0 and stays
  }
};

struct Tanh {
  template <class S>
  static EVOMETA_INLINE Activated<S> of(Vector<S> z) {
    const Vector<S> grown = expm1_of(clamp(S(2) * z, splat<S>(-60), splat<S>(60)));  // beyond ±30 it is ±1
    const Vector<S> value = grown / (grown + S(2));
    return {value, S(1) - value * value};
  }
};

struct Sigmoid {
  template <class S>
  static EVOMETA_INLINE Activated<S> of(Vector<S> z) {
    const Vector<S> value = logistic_of<S>(z);
    return {value, value * (S(1) - value)};
  }
};

struct Gelu {
  template <class S>
  static EVOMETA_INLINE Activated<S> of(Vector<S> z) {
    const Normal<S> normal = normal_of(z);
    return {z * normal.share, normal.share + z * normal.density};
  }
};

struct Silu {
  template <class S>
  static EVOMETA_INLINE Activated<S> of(Vector<S> z) {
    const Vector<S> gate = logistic_of<S>(z);
    const Vector<S> value = z * gate;
    return {value, gate * (S(1) + z - value)};
  }
};

struct Elu {
  template <class S>
  static EVOMETA_INLINE Activated<S> of(Vector<S> z) {
    const Vector<S> below = expm1_of(z), zero{};
    return {z > zero ? z : below, z > zero ? splat<S>(1) : below + S(1)};
  }
};

template <class S>
struct Sines {
  Vector<S> sine, cosine;
};

constexpr float kLargestAngle = 8192.0f;  // up to which the parts of π/2 below have exact multiples

// Of angles up to kLargestAngle: Cody and Waite's reduction to a quarter turn, and Cephes' polynomials.
EVOMETA_INLINE Sines<float> sines_of(Vector<float> x) {
  // Adding 1.5·2²³ rounds to the nearest integer, which then stands in the low bits.
  const Vector<float> shifted = x * 0.636619772f + 12582912.0f;
  const Vector<float> turns = shifted - 12582912.0f;
  const Vector<float> angle =
      ((x - turns * 1.5703125f) - turns * 4.837512969970703125e-4f) - turns * 7.54978995489188216e-8f;
  const Vector<float> square = angle * angle;
  const Vector<float> odd = ((-1.9515295891e-4f * square + 8.3321608736e-3f) * square - 1.6666654611e-1f) * square;
  const Vector<float> even = (2.443315711809948e-5f * square - 1.388731625493765e-3f) * square + 4.166664568298827e-2f;
  const Vector<float> sine = odd * angle + angle;
  const Vector<float> cosine = even * square * square - 0.5f * square + 1.0f;
  const Int32Vector quarter = (Int32Vector)shifted;
  const auto swapped = (quarter & 1) != 0;
  const Int32Vector signs = (quarter & 2) << 30, cosine_signs = ((quarter + 1) & 2) << 30;
  return {(Vector<float>)((Int32Vector)(swapped ? cosine : sine) ^ signs),
          (Vector<float>)((Int32Vector)(swapped ? sine : cosine) ^ cosine_signs)};
}

template <class S>
EVOMETA_INLINE Sines<S> sines_lane_by_lane(Vector<S> x) {
  return {lane_by_lane<S>(x, [](S v) { return std::sin(v); }), lane_by_lane<S>(x, [](S v) { return std::cos(v); })};
}

EVOMETA_INLINE Sines<double> sines_of(Vector<double> x) { return sines_lane_by_lane<double>(x); }

// A network's activation, of which only sines have a frequency. values[n] → hidden[n], and their slopes in place of
// them; n is a multiple of a vector.
template <class S>
struct Activation {
  void (*apply)(S* values, S* hidden, int64_t n, S frequency);
  S frequency;

  void operator()(S* values, S* hidden, int64_t n) const { apply(values, hidden, n, frequency); }
};

template <class A, class S>
inline void activate(S* values, S* hidden, int64_t n, S) {
  for (int64_t i = 0; i < n; i += VectorOf<S>::width) {
    const Activated<S> activated = A::template of<S>(load(values + i));
    store(hidden + i, activated.value);
    store(values + i, activated.slope);
  }
}

// sin(frequency·z). Angles without bounds, which only trainings that diverge have, are left to the C library.
template <class S>
inline void activate_sine(S* values, S* hidden, int64_t n, S frequency) {
  constexpr int w = VectorOf<S>::width;
  Vector<S> most{};
  for (int64_t i = 0; i < n; i += w) {
    const Vector<S> size = abs_of(frequency * load(values + i));
    most = size > most ? size : most;
  }
  bool bounded = true;
  for (int lane = 0; lane < w; ++lane) bounded &= most[lane] <= S(kLargestAngle);
  for (int64_t i = 0; i < n; i += w) {
    const Vector<S> angle = frequency * load(values + i);
    const Sines<S> sines = bounded ? sines_of(angle) : sines_lane_by_lane<S>(angle);
    store(hidden + i, sines.sine);
    store(values + i, frequency * sines.cosine);
  }
}

// ω of "sine(ω)"; 0 for every other name.
inline double frequency_named(std::string_view name) {
  constexpr std::string_view kBefore = "sine(";
  if (name.substr(0, kBefore.size()) != kBefore || name.back() != ')') return 0;
  std::istringstream number(std::string(name.substr(kBefore.size(), name.size() - kBefore.size() - 1)));
  number.imbue(std::locale::classic());
  double frequency = 0;
  return number >> frequency && number.peek() == std::istringstream::traits_type::eof() ? frequency : 0;
}

// `apply` is null for a name that none has.
template <class S>
Activation<S> activation_named(std::string_view name) {
  if (name == "relu") return {activate<Relu, S>, 0};
  if (name == "tanh") return {activate<Tanh, S>, 0};
  if (name == "sigmoid") return {activate<Sigmoid, S>, 0};
  if (name == "gelu") return {activate<Gelu, S>, 0};
  if (name == "silu") return {activate<Silu, S>, 0};
  if (name == "elu") return {activate<Elu, S>, 0};
  const S frequency = static_cast<S>(frequency_named(name));
  return {frequency > 0 ? activate_sine<S> : nullptr, frequency};
}

}  // namespace evometa

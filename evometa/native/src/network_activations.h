// Activations h(z) of a network together with their slopes h′(z), which share what is costly.
#pragma once

#include <cmath>
#include <cstdint>
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

// values[n] → hidden[n], and their slopes in place of them; n is a multiple of a vector.
template <class S>
using Activate = void (*)(S* values, S* hidden, int64_t n);

template <class A, class S>
inline void activate(S* values, S* hidden, int64_t n) {
  for (int64_t i = 0; i < n; i += VectorOf<S>::width) {
    const Activated<S> activated = A::template of<S>(load(values + i));
    store(hidden + i, activated.value);
    store(values + i, activated.slope);
  }
}

// Null for a name that none has.
template <class S>
Activate<S> activation_named(std::string_view name) {
  if (name == "relu") return activate<Relu, S>;
  if (name == "tanh") return activate<Tanh, S>;
  if (name == "sigmoid") return activate<Sigmoid, S>;
  if (name == "gelu") return activate<Gelu, S>;
  if (name == "silu") return activate<Silu, S>;
  if (name == "elu") return activate<Elu, S>;
  return nullptr;
}

}  // namespace evometa

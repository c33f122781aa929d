// Powers of two for gates, and the hyperbolic tangent.
//
// Gates are computed from e = 2^z with the factor −log₂e (for a tanh −2·log₂e) folded into the weights:
// σ = 1/(1 + e), tanh = (1 − e)/(1 + e). e is bounded so that the product of three denominators stays finite.
#pragma once

#include "vector.h"

namespace evometa {

constexpr double kLog2E = 1.44269504088896340736;

template <class S>
constexpr int gate_bound();  // the largest exponent of e
template <>
constexpr int gate_bound<float>() { return 40; }
template <>
constexpr int gate_bound<double>() { return 300; }

// 2^x; 0 where x is below −126, 2^kHigh where it is above kHigh. NaN and infinities give NaN.
template <int kHigh>
EVOMETA_INLINE Vector<float> exp2_bounded(Vector<float> x) {
  // Adding 1.5·2²³ rounds to the nearest integer; the 127 on top makes the low bits the exponent field of 2ⁿ.
  // Bounding that integer costs less than bounding x, and multiplying by 2ⁿ, unlike adding to the exponent
  // field, keeps NaN.
  constexpr float kMagic = 12582912.0f + 127.0f;
  constexpr int32_t kZero = 0x4B400000;
  const Vector<float> shifted = x + kMagic;
  const Vector<float> fraction = x - (shifted - kMagic);
  Int32Vector power = (Int32Vector)shifted;
  const Int32Vector low = Int32Vector{} + kZero, high = Int32Vector{} + (kZero + 127 + kHigh);
  power = power > low ? power : low;
  power = power < high ? power : high;
  // Minimax of 2^f/p(f) on |f| ≤ 1/2 with p(0) = 1: relative error 9.2e-8 before rounding. Grouped in pairs,
  // because a chain of products would wait for each of them.
  const Vector<float> square = fraction * fraction;
  const Vector<float> low_pair = fraction * 6.9314697760e-1f + 1.0f;
  const Vector<float> middle_pair = fraction * 5.5507337408e-2f + 2.4022242087e-1f;
  const Vector<float> high_pair = fraction * 1.3264727593e-3f + 9.6715125915e-3f;
  const Vector<float> p = (high_pair * square + middle_pair) * square + low_pair;
  return p * (Vector<float>)(power << 23);
}

template <int kHigh>
EVOMETA_INLINE Vector<double> exp2_bounded(Vector<double> x) {
  return exp2_of(clamp(x, splat(-1022.0), splat(static_cast<double>(kHigh))));
}

// e = 2^z of a gate.
template <class S>
EVOMETA_INLINE Vector<S> gate_power(Vector<S> z) {
  return exp2_bounded<gate_bound<S>()>(z);
}

// The same for n numbers in place, n a multiple of the vector width.
template <class S>
EVOMETA_INLINE void gate_powers(S* z, int64_t n) {
  for (int64_t i = 0; i < n; i += VectorOf<S>::width) store(z + i, gate_power<S>(load(z + i)));
}

// e^x, at most about 1e38 as a float.
template <class S>
EVOMETA_INLINE Vector<S> bounded_exp(Vector<S> x) {
  return exp2_bounded<sizeof(S) == 4 ? 126 : 1022>(x * static_cast<S>(kLog2E));
}

template <class S>
EVOMETA_INLINE Vector<S> tanh_of(Vector<S> x) {
  const Vector<S> e = gate_power<S>(x * static_cast<S>(-2.0 * kLog2E));
  return (S(1) - e) / (S(1) + e);
}

}  // namespace evometa

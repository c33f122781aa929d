// Short vectors of floats or doubles by the vector extension of GCC and Clang, and their elementary functions.
//
// A vector is as wide as the widest register of the machine the kernels are built for. Functions of floats are
// polynomials without branches or estimates made better, accurate to a few units in the last place; those of
// doubles go lane by lane to the C library, because doubles serve comparison with the reference and not speed. NaN
// comes out as NaN.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#if defined(__SSE__)
#include <immintrin.h>
#endif

namespace evometa {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

#define EVOMETA_INLINE inline __attribute__((always_inline))

template <class S>
struct VectorOf {
  typedef S type __attribute__((vector_size(kVectorBytes)));
  static constexpr int width = kVectorBytes / static_cast<int>(sizeof(S));
};
template <class S>
using Vector = typename VectorOf<S>::type;
typedef int32_t Int32Vector __attribute__((vector_size(kVectorBytes)));

template <class S>
EVOMETA_INLINE Vector<S> load(const S* from) {
  Vector<S> value;
  std::memcpy(&value, from, sizeof(value));
  return value;
}

template <class S>
EVOMETA_INLINE void store(S* to, Vector<S> value) {
  std::memcpy(to, &value, sizeof(value));
}

template <class S>
EVOMETA_INLINE Vector<S> splat(S value) {
  return value - Vector<S>{};  // not `+`: adding zero would turn −0 into 0 and is not folded away
}

// The value itself, which the compiler may not load again from memory. Where a value that was loaded is used
// several times GCC would rather load it each time, and loads, not arithmetic, would then limit a product.
template <class V>
EVOMETA_INLINE V in_register(V value) {
#if defined(__x86_64__)
  asm("" : "+x"(value));
#elif defined(__aarch64__)
  asm("" : "+w"(value));
#endif
  return value;
}

template <class S>
EVOMETA_INLINE S sum_of(Vector<S> value) {
  S total = 0;
  for (int lane = 0; lane < VectorOf<S>::width; ++lane) total += value[lane];
  return total;
}

// Comparisons are written so that NaN falls through unchanged.
template <class V>
EVOMETA_INLINE V clamp(V x, V low, V high) {
  x = x < low ? low : x;
  return x > high ? high : x;
}

template <class S, class F>
EVOMETA_INLINE Vector<S> lane_by_lane(Vector<S> x, F function) {
  for (int lane = 0; lane < VectorOf<S>::width; ++lane) x[lane] = function(x[lane]);
  return x;
}

// ---- float ------------------------------------------------------------------------------------------------

// 2^x = 2^whole · (1 + fraction · slope); x is clamped to [-126, 126].
struct Exp2Parts {
  Vector<float> fraction, slope;
  Int32Vector whole;  // in the bits of the exponent

  EVOMETA_INLINE explicit Exp2Parts(Vector<float> x) {
    x = clamp(x, splat(-126.0f), splat(126.0f));
    // Adding 1.5·2²³ rounds to the nearest integer, which then stands in the low bits.
    const Vector<float> shifted = x + 12582912.0f;
    whole = (Int32Vector)shifted << 23;
    fraction = x - (shifted - 12582912.0f);
    slope = splat(1.5403530394e-4f);  // Taylor of (2^f − 1)/f with |f| ≤ 1/2, degree 5
    slope = slope * fraction + 1.3333558146e-3f;
    slope = slope * fraction + 9.6181291076e-3f;
    slope = slope * fraction + 5.5504108665e-2f;
    slope = slope * fraction + 2.4022650696e-1f;
    slope = slope * fraction + 6.9314718056e-1f;
  }
};

EVOMETA_INLINE Vector<float> exp2_of(Vector<float> x) {
  const Exp2Parts parts(x);
  return (Vector<float>)((Int32Vector)(parts.slope * parts.fraction + 1.0f) + parts.whole);
}

EVOMETA_INLINE Vector<float> exp_of(Vector<float> x) { return exp2_of(x * 1.44269504088896341f); }

// e^x − 1, exact near 0 too.
EVOMETA_INLINE Vector<float> expm1_of(Vector<float> x) {
  const Exp2Parts parts(x * 1.44269504088896341f);
  const Vector<float> power = (Vector<float>)((Int32Vector)splat(1.0f) + parts.whole);
  return parts.slope * parts.fraction * power + (power - 1.0f);
}

// Natural logarithm of positive normal numbers (Cephes' polynomial on [√½, √2]).
EVOMETA_INLINE Vector<float> log_of(Vector<float> x) {
  Int32Vector bits = (Int32Vector)x;
  Int32Vector exponent = ((bits - 0x3f3504f3) >> 23);
  Vector<float> m = (Vector<float>)(bits - (exponent << 23)) - 1.0f;
  const Vector<float> e = __builtin_convertvector(exponent, Vector<float>);
  const Vector<float> z = m * m;
  Vector<float> y = splat(7.0376836292e-2f);
  y = y * m - 1.1514610310e-1f;
  y = y * m + 1.1676998740e-1f;
  y = y * m - 1.2420140846e-1f;
  y = y * m + 1.4249322787e-1f;
  y = y * m - 1.6668057665e-1f;
  y = y * m + 2.0000714765e-1f;
  y = y * m - 2.4999993993e-1f;
  y = y * m + 3.3333331174e-1f;
  y = y * m * z - 2.12194440e-4f * e - 0.5f * z;
  return m + y + e * 0.693359375f;
}

// Roots: a lane loop that compilers turn into one instruction.
EVOMETA_INLINE Vector<float> sqrt_of(Vector<float> x) { return lane_by_lane<float>(x, [](float v) { return std::sqrt(v); }); }

// 1/√x. A root and a division keep their unit busy for as long as twenty products and wait for each other; x86 has
// an estimate of twelve bits or more instead, which a step of Newton's completes. (For a division alone that does not
// pay: in the cells it is made while products keep the other units busy.)
#if defined(__SSE__)
constexpr float kLargest = std::numeric_limits<float>::max();

EVOMETA_INLINE Vector<float> reciprocal_root_estimate(Vector<float> x) {
#if defined(__AVX512F__)
  return (Vector<float>)_mm512_rsqrt14_ps((__m512)x);
#elif defined(__AVX__)
  return (Vector<float>)_mm256_rsqrt_ps((__m256)x);
#else
  return (Vector<float>)_mm_rsqrt_ps((__m128)x);
#endif
}

// For normal x > 0; nearly 0 for infinity.
EVOMETA_INLINE Vector<float> reciprocal_root_of(Vector<float> x) {
  x = x > kLargest ? splat(kLargest) : x;  // the step would make NaN of infinity
  const Vector<float> estimate = reciprocal_root_estimate(x);
  return estimate * (1.5f - 0.5f * (x * estimate) * estimate);
}
#else
EVOMETA_INLINE Vector<float> reciprocal_root_of(Vector<float> x) { return 1.0f / sqrt_of(x); }
#endif

// ---- double -----------------------------------------------------------------------------------------------

EVOMETA_INLINE Vector<double> exp2_of(Vector<double> x) { return lane_by_lane<double>(x, [](double v) { return std::exp2(v); }); }
EVOMETA_INLINE Vector<double> exp_of(Vector<double> x) { return lane_by_lane<double>(x, [](double v) { return std::exp(v); }); }
EVOMETA_INLINE Vector<double> expm1_of(Vector<double> x) { return lane_by_lane<double>(x, [](double v) { return std::expm1(v); }); }
EVOMETA_INLINE Vector<double> log_of(Vector<double> x) { return lane_by_lane<double>(x, [](double v) { return std::log(v); }); }
EVOMETA_INLINE Vector<double> sqrt_of(Vector<double> x) { return lane_by_lane<double>(x, [](double v) { return std::sqrt(v); }); }
EVOMETA_INLINE Vector<double> reciprocal_root_of(Vector<double> x) { return 1.0 / sqrt_of(x); }

// ---- both -------------------------------------------------------------------------------------------------

template <class V>
EVOMETA_INLINE V abs_of(V x) {
  return x < 0 ? -x : x;
}

}  // namespace evometa

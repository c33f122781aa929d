// Running statistics of single coordinates, and the input channels that vary over coordinates.
//
// Everything works on a block: rows of `width` numbers, a multiple of the vector width. Which statistics there
// are and which channels come in which order is told by a FeatureProgram, which evometa/rules/feature_program.py
// writes; the definitions are those of evometa/rules/feature_table.py and signals.py.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <vector>

#include "vector.h"

namespace evometa {

// Numbers of evometa/rules/feature_program.py.
enum class FeatureKind : int64_t {
  gradient,
  log_sign,  // two channels
  parameter,
  second_moment,
  reciprocal_root,
  rms_gradient,
  average,
  log_sign_average,  // two channels
  rms_average,
  factored_gradient,
  factored_average,
};
constexpr int64_t kFeatureKinds = 11;

constexpr double kLogSignP = 10.0;
constexpr double kRootEpsilon = 1e-16;        // signals.EPSILON
constexpr double kReciprocalEpsilon = 1e-8;   // feature_table.RECIPROCAL_EPSILON
constexpr int64_t kNone = -1;

struct Feature {
  FeatureKind kind;
  int64_t momentum;  // which momentum it reads, or kNone
  int64_t factored;  // which factored decay it reads, or kNone

  int64_t n_channels() const { return kind == FeatureKind::log_sign || kind == FeatureKind::log_sign_average ? 2 : 1; }
};

// How an exponential average moves and how it is corrected for its start at zero.
template <class S>
struct Average {
  S gain;        // 1 − β
  S correction;  // 1 / (1 − βᵏ⁺¹)
};

// Reads a list of numbers that Python wrote; a list that is too short raises instead of being overrun.
template <class T>
class Reader {
 public:
  Reader(const T* begin, const T* end) : at_(begin), end_(end) {}
  T next() {
    if (at_ == end_) throw std::invalid_argument("evometa kernel: a list of numbers is too short");
    return *at_++;
  }
  bool done() const { return at_ == end_; }

 private:
  const T* at_;
  const T* end_;
};

template <class S>
Average<S> read_average(Reader<double>& numbers) {
  const S gain = static_cast<S>(numbers.next());
  return {gain, static_cast<S>(numbers.next())};
}

// What one rule structure keeps and reads of every coordinate, at one step.
template <class S>
struct FeatureProgram {
  std::vector<Average<S>> momenta;
  bool has_second_moment = false;
  Average<S> second_moment{};
  std::vector<Feature> features;
  int64_t n_channels = 0;
  bool needs_root = false;  // whether some channel is divided by √v̂

  // spec: number of momenta, whether there is a second moment, number of features, then for each of them
  // kind, momentum, factored. numbers: gain and correction of each momentum, then of the second moment.
  FeatureProgram(Reader<int64_t>& spec, Reader<double>& numbers, int64_t n_factored) {
    const int64_t n_momenta = spec.next();
    has_second_moment = spec.next() != 0;
    for (int64_t i = 0; i < n_momenta; ++i) momenta.push_back(read_average<S>(numbers));
    if (has_second_moment) second_moment = read_average<S>(numbers);
    const int64_t n_features = spec.next();
    for (int64_t i = 0; i < n_features; ++i) {
      const int64_t kind = spec.next(), momentum = spec.next(), factored = spec.next();
      if (kind < 0 || kind >= kFeatureKinds) throw std::invalid_argument("evometa kernel: unknown kind of feature");
      add({static_cast<FeatureKind>(kind), momentum, factored}, n_factored);
    }
  }

 private:
  void add(Feature feature, int64_t n_factored) {
    using K = FeatureKind;
    const K kind = feature.kind;
    const bool rms = kind == K::rms_gradient || kind == K::rms_average;
    const bool averaged = kind == K::average || kind == K::log_sign_average || kind == K::rms_average || kind == K::factored_average;
    const bool factored = kind == K::factored_gradient || kind == K::factored_average;
    const bool squared = rms || kind == K::second_moment || kind == K::reciprocal_root;
    const int64_t n_momenta = static_cast<int64_t>(momenta.size());
    if ((averaged && (feature.momentum < 0 || feature.momentum >= n_momenta)) ||
        (factored && (feature.factored < 0 || feature.factored >= n_factored)) || (squared && !has_second_moment))
      throw std::invalid_argument("evometa kernel: a feature reads a statistic that is not kept");
    features.push_back(feature);
    n_channels += feature.n_channels();
    needs_root = needs_root || rms;
  }
};

// Rows of a block of coordinates; `momenta` and `factored` hold one row for each decay. Rows that no channel
// reads may be null.
template <class S>
struct CoordinateRows {
  const S* grads;
  const S* params;
  const S* const* momenta;
  const S* second_moment;
  const S* const* factored;  // 1/√v̂ of the factored second moments
};

// after = before + gain·(observed − before); the rows may be the same memory.
template <class S, class Observed>
EVOMETA_INLINE void update_average(const Average<S>& average, Observed observed, const S* before, S* after, int64_t width) {
  for (int64_t i = 0; i < width; i += VectorOf<S>::width) {
    const Vector<S> old = load(before + i);
    store(after + i, old + average.gain * (observed(i) - old));
  }
}

// All statistics after this step's gradients; `before` and `after` may be the same memory.
template <class S>
inline void update_statistics(const FeatureProgram<S>& program, const S* grads, const S* const* momenta_before,
                              const S* second_moment_before, S* const* momenta_after, S* second_moment_after,
                              int64_t width) {
  const auto gradient = [=](int64_t i) { return load(grads + i); };
  const auto square = [=](int64_t i) { return load(grads + i) * load(grads + i); };
  for (std::size_t d = 0; d < program.momenta.size(); ++d)
    update_average(program.momenta[d], gradient, momenta_before[d], momenta_after[d], width);
  if (program.has_second_moment)
    update_average(program.second_moment, square, second_moment_before, second_moment_after, width);
}

// log|x|/p, or −1 below e⁻ᵖ. log_of knows finite numbers only: NaN and infinities are passed on here.
template <class S>
EVOMETA_INLINE Vector<S> log_magnitude(Vector<S> x) {
  Vector<S> magnitude = abs_of(x);
  const Vector<S> low = splat(static_cast<S>(std::exp(-kLogSignP)));
  magnitude = magnitude < low ? low : magnitude;
  return (magnitude < std::numeric_limits<S>::infinity() ? log_of(magnitude) : magnitude) * static_cast<S>(1.0 / kLogSignP);
}

// eᵖ·x within [−1, 1].
template <class S>
EVOMETA_INLINE Vector<S> bounded_sign(Vector<S> x) {
  return clamp(x * static_cast<S>(std::exp(kLogSignP)), splat(S(-1)), splat(S(1)));
}

// out[i] = value(i) for a row of `width` numbers.
template <class S, class Value>
EVOMETA_INLINE void fill_row(S* out, int64_t width, Value value) {
  for (int64_t i = 0; i < width; i += VectorOf<S>::width) store(out + i, value(i));
}

// The same for an even number of vectors; adds the squares to `squares` lane by lane.
template <class S, class Value>
EVOMETA_INLINE void fill_row_and_square(S* out, int64_t width, Value value, S* squares) {
  constexpr int64_t w = VectorOf<S>::width;
  Vector<S> even{}, odd{};  // two sums, because one addition must wait for the last
  for (int64_t i = 0; i < width; i += 2 * w) {
    const Vector<S> first = value(i), second = value(i + w);
    store(out + i, first);
    store(out + i + w, second);
    even += first * first;
    odd += second * second;
  }
  store(squares, load(squares) + (even + odd));
}

// The channels of a block, out[n_channels][width] in the program's order, from the statistics after this step.
// `root` is scratch for one row. With kSquares the squares of each channel are added lane by lane to
// squares[n_channels][lanes], and the block must be an even number of vectors.
template <bool kSquares = false, class S>
inline void coordinate_channels(const FeatureProgram<S>& program, const CoordinateRows<S>& rows, int64_t width, S* root,
                                S* out, S* squares = nullptr) {
  using V = Vector<S>;
  using K = FeatureKind;
  const S* grads = rows.grads;
  const S* second_moment = rows.second_moment;
  const S square_correction = program.second_moment.correction;
  const auto mean_square = [=](int64_t i) { return V(load(second_moment + i) * square_correction); };
  if (program.needs_root)
    fill_row(root, width, [=](int64_t i) { return reciprocal_root_of(mean_square(i) + S(kRootEpsilon)); });
  const auto channel = [&](auto value) {
    if constexpr (kSquares) {
      fill_row_and_square(out, width, value, squares);
      squares += VectorOf<S>::width;
    } else {
      fill_row(out, width, value);
    }
    out += width;
  };
  for (const Feature& feature : program.features) {
    const S* momentum = feature.momentum == kNone ? nullptr : rows.momenta[feature.momentum];
    const S correction = feature.momentum == kNone ? S(1) : program.momenta[feature.momentum].correction;
    const S* factored = feature.factored == kNone ? nullptr : rows.factored[feature.factored];
    const auto average = [=](int64_t i) { return V(load(momentum + i) * correction); };
    switch (feature.kind) {
      case K::gradient:
        channel([=](int64_t i) { return load(grads + i); });
        break;
      case K::log_sign:
        channel([=](int64_t i) { return log_magnitude<S>(load(grads + i)); });
        channel([=](int64_t i) { return bounded_sign<S>(load(grads + i)); });
        break;
      case K::parameter:
        channel([params = rows.params](int64_t i) { return load(params + i); });
        break;
      case K::second_moment:
        channel(mean_square);
        break;
      case K::reciprocal_root:
        channel([=](int64_t i) { return reciprocal_root_of(mean_square(i) + S(kReciprocalEpsilon)); });
        break;
      case K::rms_gradient:
        channel([=](int64_t i) { return V(load(grads + i) * load(root + i)); });
        break;
      case K::average:
        channel(average);
        break;
      case K::log_sign_average:
        channel([=](int64_t i) { return log_magnitude<S>(average(i)); });
        channel([=](int64_t i) { return bounded_sign<S>(average(i)); });
        break;
      case K::rms_average:
        channel([=](int64_t i) { return V(average(i) * load(root + i)); });
        break;
      case K::factored_gradient:
        channel([=](int64_t i) { return V(load(grads + i) * load(factored + i)); });
        break;
      case K::factored_average:
        channel([=](int64_t i) { return V(average(i) * load(factored + i)); });
        break;
    }
  }
}

}  // namespace evometa

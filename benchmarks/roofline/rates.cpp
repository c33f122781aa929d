// Rates of one core that no library call shows: multiply-adds from registers, and exponentials by evometa's
// vector header, on numbers in the first-level cache. Each returns operations a second.
#include <algorithm>
#include <chrono>

#include "vector.h"

using evometa::Vector;
using evometa::VectorOf;

namespace {

constexpr int kAccumulators = 12;
constexpr int kBuffer = 2048;

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

template <class Pass>
double best_rate(double seconds, double operations, Pass pass) {
  double best = 0;
  for (const double end = now() + seconds; now() < end;) {
    const double started = now();
    pass();
    best = std::max(best, operations / (now() - started));
  }
  return best;
}

}  // namespace

extern "C" double multiply_add_rate(double seconds) {
  constexpr int repeats = 200000;
  Vector<float> accumulators[kAccumulators] = {};
  const double rate = best_rate(seconds, 2.0 * repeats * kAccumulators * VectorOf<float>::width, [&] {
    Vector<float> factor = evometa::in_register(evometa::splat(0.999999f));
    for (int i = 0; i < repeats; ++i)
      for (int a = 0; a < kAccumulators; ++a)
        accumulators[a] = evometa::in_register(accumulators[a]) * factor + factor;
  });
  float sum = 0;
  for (const auto& value : accumulators) sum += evometa::sum_of<float>(value);
  return sum == 0 ? 0 : rate;  // the sum is never 0, but the compiler cannot know and drops nothing
}

extern "C" double exponential_rate(double seconds) {
  constexpr int repeats = 50;
  alignas(64) static float buffer[kBuffer];
  for (int i = 0; i < kBuffer; ++i) buffer[i] = (i % 101) * 0.01f;
  return best_rate(seconds, static_cast<double>(repeats) * kBuffer, [&] {
    for (int r = 0; r < repeats; ++r)
      for (int i = 0; i < kBuffer; i += VectorOf<float>::width)
        evometa::store<float>(buffer + i, evometa::exp_of(-evometa::load(buffer + i)));
  });
}

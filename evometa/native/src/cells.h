// Recurrent cells on blocks of coordinates; evometa/rules/cells.py defines them.
//
// A cell keeps kBlocks·H rows a coordinate, filled by products with its inputs x and its hidden state h. Most
// rows hold e = 2^z (activations.h says what for), the others z; forward() turns them into the next state and
// leaves behind what backward() needs, which turns them into the cotangents of the pre-activations, in place.
#pragma once

#include <array>
#include <cstdint>

#include "activations.h"

namespace evometa {

// H·count rows, from H·first on, of a product with the inputs, the hidden state or both.
struct Product {
  int first, count;
  bool inputs, hidden;
  bool power;  // rows hold 2^z
};

// Rows of a block, [H][kWidth] each.
template <class S>
struct CellRows {
  S* gates;                // [kBlocks·H]
  const S* hidden_before;
  const S* memory_before;  // an LSTM's
  S* memory;
  S* hidden;
};

// Cotangents, [H][kWidth] each.
template <class S>
struct CellCotangents {
  const S* hidden;   // of the hidden state
  S* memory;         // of the memory, replaced by those of the memory before
  S* hidden_before;  // what reaches the hidden state before directly; the products add the rest
};

// z of a σ is scaled by kSigmoid, z of a tanh by kTanh.
constexpr double kSigmoid = -kLog2E;
constexpr double kTanh = -2.0 * kLog2E;

// Calls body(i) for the places of all vectors of H rows.
template <class S, int64_t kWidth, class Body>
EVOMETA_INLINE void for_each_vector(int64_t n_hidden, Body body) {
  for (int64_t i = 0; i < n_hidden * kWidth; i += VectorOf<S>::width) body(i);
}

struct Vanilla {
  static constexpr int kBlocks = 1;
  static constexpr bool kMemory = false, kRecurrentBias = false, kDirect = false;
  static constexpr std::array<Product, 1> kProducts{{{0, 1, true, true, true}}};
  static constexpr std::array<double, 1> kScales{kTanh};
  static constexpr std::array<int, 1> kWeightBlocks{0};

  template <int64_t kWidth, class S>
  static void forward(int64_t n_hidden, const CellRows<S>& rows) {
    for_each_vector<S, kWidth>(n_hidden, [=](int64_t i) {
      const Vector<S> e = load(rows.gates + i);
      store(rows.hidden + i, (S(1) - e) / (S(1) + e));
    });
  }

  template <int64_t kWidth, class S>
  static void backward(int64_t n_hidden, const CellRows<S>& rows, const CellCotangents<S>& cotangents) {
    for_each_vector<S, kWidth>(n_hidden, [=](int64_t i) {
      const Vector<S> h = load(rows.hidden + i);
      store(rows.gates + i, load(cotangents.hidden + i) * (S(1) - h * h));
    });
  }
};

// Blocks: input gate, forget gate, candidate, output gate.
struct Lstm {
  static constexpr int kBlocks = 4;
  static constexpr bool kMemory = true, kRecurrentBias = false, kDirect = false;
  static constexpr std::array<Product, 1> kProducts{{{0, 4, true, true, true}}};
  static constexpr std::array<double, 4> kScales{kSigmoid, kSigmoid, kTanh, kSigmoid};
  static constexpr std::array<int, 4> kWeightBlocks{0, 1, 2, 3};

  template <int64_t kWidth, class S>
  static void forward(int64_t n_hidden, const CellRows<S>& rows) {
    using V = Vector<S>;
    const S *in = rows.gates, *forget = in + n_hidden * kWidth, *candidate = forget + n_hidden * kWidth;
    const S* out = candidate + n_hidden * kWidth;
    // Two short loops run faster than one long one: more of their vectors are under way at a time.
    for_each_vector<S, kWidth>(n_hidden, [=](int64_t i) {
      const V e_a = load(candidate + i), f = load(forget + i) + S(1);
      const V both = (load(in + i) + S(1)) * (e_a + S(1));
      // σ(f)·c + σ(i)·tanh(a) over one denominator
      store(rows.memory + i, (load(rows.memory_before + i) * both + (S(1) - e_a) * f) / (f * both));
    });
    for_each_vector<S, kWidth>(n_hidden, [=](int64_t i) {
      const V e_c = gate_power<S>(load(rows.memory + i) * static_cast<S>(kTanh));
      store(rows.hidden + i, (S(1) - e_c) / ((load(out + i) + S(1)) * (S(1) + e_c)));
    });
  }

  template <int64_t kWidth, class S>
  static void backward(int64_t n_hidden, const CellRows<S>& rows, const CellCotangents<S>& cotangents) {
    using V = Vector<S>;
    S *in = rows.gates, *forget = in + n_hidden * kWidth, *candidate = forget + n_hidden * kWidth;
    S* out = candidate + n_hidden * kWidth;
    for_each_vector<S, kWidth>(n_hidden, [=](int64_t i) {
      const V e_i = load(in + i), e_f = load(forget + i), e_a = load(candidate + i), e_o = load(out + i);
      const V h = load(rows.hidden + i), d_h = load(cotangents.hidden + i);
      const V gate_i = S(1) / (S(1) + e_i), gate_f = S(1) / (S(1) + e_f), gate_o = S(1) / (S(1) + e_o);
      const V half = S(1) / (S(1) + e_a), a = half - e_a * half;
      const V tanh_c = h * (S(1) + e_o);
      const V d_c = load(cotangents.memory + i) + d_h * gate_o * (S(1) - tanh_c * tanh_c);
      store(in + i, d_c * a * e_i * gate_i * gate_i);  // σ' = e·σ²
      store(forget + i, d_c * load(rows.memory_before + i) * e_f * gate_f * gate_f);
      store(candidate + i, d_c * gate_i * (S(4) * e_a * half * half));
      store(out + i, d_h * h * e_o * gate_o);
      store(cotangents.memory + i, d_c * gate_f);
    });
  }
};

// Blocks: candidate's part from the inputs, reset gate, update gate, candidate's part from the hidden state.
struct Gru {
  static constexpr int kBlocks = 4;
  static constexpr bool kMemory = false, kRecurrentBias = true, kDirect = true;
  static constexpr std::array<Product, 3> kProducts{
      {{0, 1, true, false, false}, {1, 2, true, true, true}, {3, 1, false, true, false}}};
  static constexpr std::array<double, 4> kScales{kTanh, kSigmoid, kSigmoid, kTanh};
  static constexpr std::array<int, 4> kWeightBlocks{2, 0, 1, 2};

  template <int64_t kWidth, class S>
  static void forward(int64_t n_hidden, const CellRows<S>& rows) {
    using V = Vector<S>;
    S *candidate = rows.gates, *reset = candidate + n_hidden * kWidth, *update = reset + n_hidden * kWidth;
    const S* recurrent = update + n_hidden * kWidth;
    for_each_vector<S, kWidth>(n_hidden, [=](int64_t i) {
      const V r = S(1) / (load(reset + i) + S(1));
      const V e_a = gate_power<S>(load(candidate + i) + r * load(recurrent + i));
      const V a = (S(1) - e_a) / (S(1) + e_a);
      store(candidate + i, a);
      const V e_z = load(update + i);
      store(rows.hidden + i, (e_z * a + load(rows.hidden_before + i)) / (S(1) + e_z));
    });
  }

  template <int64_t kWidth, class S>
  static void backward(int64_t n_hidden, const CellRows<S>& rows, const CellCotangents<S>& cotangents) {
    using V = Vector<S>;
    S *candidate = rows.gates, *reset = candidate + n_hidden * kWidth, *update = reset + n_hidden * kWidth;
    S* recurrent = update + n_hidden * kWidth;
    for_each_vector<S, kWidth>(n_hidden, [=](int64_t i) {
      const V a = load(candidate + i), e_r = load(reset + i), e_z = load(update + i), d_h = load(cotangents.hidden + i);
      const V r = S(1) / (S(1) + e_r), z = S(1) / (S(1) + e_z);
      const V d_a = d_h * e_z * z * (S(1) - a * a);
      store(candidate + i, d_a);
      store(reset + i, d_a * load(recurrent + i) * static_cast<S>(1.0 / kTanh) * e_r * r * r);
      store(update + i, d_h * (load(rows.hidden_before + i) - a) * e_z * z * z);
      store(recurrent + i, d_a * r);
      store(cotangents.hidden_before + i, d_h * z);
    });
  }
};

}  // namespace evometa

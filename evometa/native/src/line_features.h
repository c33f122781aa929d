// Statistics and channels of the rows and columns of a matrix ("lines"), and factored second moments.
//
// The definitions are those of evometa/rules/signals.py and feature_table.py.
#pragma once

#include <algorithm>
#include <cstring>

#include "coordinate_features.h"

namespace evometa {

// One tensor as a matrix: where its coordinates, rows and columns stand among those of all tensors.
struct Matrix {
  int64_t n_rows, n_columns;
  int64_t offset, row_offset, column_offset;
  int64_t size() const { return n_rows * n_columns; }
};

struct LineFeature {
  int64_t moment;   // which moment of its side it reads
  bool reciprocal;  // its reciprocal root instead of itself
};

// What is kept and read of the rows, or of the columns.
template <class S>
struct LineSide {
  std::vector<Average<S>> moments;
  std::vector<LineFeature> features;
};

struct FactoredMoment {
  int64_t row_moment, column_moment;
};

template <class S>
struct LineProgram {
  LineSide<S> rows, columns;
  std::vector<FactoredMoment> factored;

  // spec: numbers of row moments, column moments and factored moments, the two moments of each factored one,
  // then for rows and for columns the number of features and of each the moment and whether it is reciprocal.
  // numbers: gain and correction of each row moment, then of each column moment.
  LineProgram(Reader<int64_t>& spec, Reader<double>& numbers) {
    const int64_t n_row_moments = spec.next(), n_column_moments = spec.next(), n_factored = spec.next();
    for (int64_t i = 0; i < n_row_moments; ++i) rows.moments.push_back(read_average<S>(numbers));
    for (int64_t i = 0; i < n_column_moments; ++i) columns.moments.push_back(read_average<S>(numbers));
    for (int64_t i = 0; i < n_factored; ++i) {
      const int64_t row = checked(spec.next(), n_row_moments);
      factored.push_back({row, checked(spec.next(), n_column_moments)});
    }
    for (LineSide<S>* side : {&rows, &columns}) {
      const int64_t n_features = spec.next();
      for (int64_t i = 0; i < n_features; ++i) {
        const int64_t moment = checked(spec.next(), static_cast<int64_t>(side->moments.size()));
        side->features.push_back({moment, spec.next() != 0});
      }
    }
  }

  bool empty() const { return rows.moments.empty() && columns.moments.empty(); }

 private:
  static int64_t checked(int64_t index, int64_t size) {
    if (index < 0 || index >= size) throw std::invalid_argument("evometa kernel: a line's feature reads a moment that is not kept");
    return index;
  }
};

// Numbers a scratch row for n lines holds: a multiple of two vectors, and a vector beyond the last line.
template <class S>
constexpr int64_t padded_lines(int64_t n) {
  constexpr int64_t w = VectorOf<S>::width;
  return (n + 3 * w - 1) / (2 * w) * (2 * w);
}

// The lines of one side of one tensor. Each kind of rows is `stride` apart, which is padded_lines() of their
// number and so changes from tensor to tensor.
template <class S>
struct Lines {
  int64_t n = 0;
  int64_t stride = 0;
  std::vector<S> means;          // of g² at this step
  std::vector<S> moments;        // their averages
  std::vector<S> channels;       // features, not normalised; zero beyond the last line
  std::vector<S> factors;        // one for each factored moment: 1/√v̂ᵢⱼ = row's factor i · column's factor j
  std::vector<S> contributions;  // to each hidden unit

  Lines(const LineSide<S>& side, int64_t n_factored, int64_t n_hidden, int64_t max_lines)
      : means(padded_lines<S>(max_lines)),
        moments(means.size() * side.moments.size()),
        channels(means.size() * side.features.size()),
        factors(means.size() * n_factored),
        contributions(means.size() * n_hidden) {}

  void begin_tensor(int64_t n_lines) {
    n = n_lines;
    stride = padded_lines<S>(n_lines);
  }
};

// Copies n lines and fills the row up with zeros; in vectors, because the rows are short.
template <class S>
inline void copy_lines(const S* from, int64_t n, S* to) {
  constexpr int64_t w = VectorOf<S>::width;
  for (int64_t i = n - n % w; i < padded_lines<S>(n); i += w) store(to + i, Vector<S>{});
  for (int64_t i = 0; i + w <= n; i += w) store(to + i, load(from + i));
  if (n >= w)
    store(to + n - w, load(from + n - w));
  else
    for (int64_t i = 0; i < n; ++i) to[i] = from[i];
}

// Means of g² over the rows and over the columns of a matrix.
template <class S>
inline void mean_squares(const S* grads, const Matrix& matrix, S* row_means, S* column_means) {
  constexpr int64_t w = VectorOf<S>::width;
  const int64_t n_rows = matrix.n_rows, n_columns = matrix.n_columns;
  fill_row(row_means, padded_lines<S>(n_rows), [](int64_t) { return Vector<S>{}; });
  fill_row(column_means, padded_lines<S>(n_columns), [](int64_t) { return Vector<S>{}; });
  if (n_columns == 1) {
    Vector<S> total{};
    int64_t i = 0;
    for (; i + w <= n_rows; i += w) {
      const Vector<S> square = load(grads + i) * load(grads + i);
      store(row_means + i, square);
      total += square;
    }
    S sum = sum_of<S>(total);
    for (; i < n_rows; ++i) sum += row_means[i] = grads[i] * grads[i];
    column_means[0] = sum * (S(1) / n_rows);
    return;
  }
  for (int64_t i = 0; i < n_rows; ++i) {
    const S* row = grads + i * n_columns;
    Vector<S> total{};
    int64_t j = 0;
    for (; j + w <= n_columns; j += w) {
      const Vector<S> square = load(row + j) * load(row + j);
      store(column_means + j, load(column_means + j) + square);
      total += square;
    }
    S sum = sum_of<S>(total);
    for (; j < n_columns; ++j) {
      const S square = row[j] * row[j];
      column_means[j] += square;
      sum += square;
    }
    row_means[i] = sum * (S(1) / n_columns);
  }
  for (int64_t j = 0; j < n_columns; ++j) column_means[j] *= S(1) / n_rows;
}

// Reads the moments of a side, from its first line on.
template <class S>
inline void load_moments(const LineSide<S>& side, const S* const* moments, Lines<S>& lines) {
  for (std::size_t m = 0; m < side.moments.size(); ++m) copy_lines(moments[m], lines.n, &lines.moments[m * lines.stride]);
}

// The moments of a side after this step, `before` and `after` (which may be the same memory) at its first line.
template <class S>
inline void update_moments(const LineSide<S>& side, const S* const* before, S* const* after, Lines<S>& lines) {
  load_moments(side, before, lines);
  const S* means = lines.means.data();
  for (std::size_t m = 0; m < side.moments.size(); ++m) {
    S* own = &lines.moments[m * lines.stride];
    update_average(side.moments[m], [=](int64_t i) { return load(means + i); }, own, own, lines.stride);
    std::memcpy(after[m], own, lines.n * sizeof(S));
  }
}

// Corrects the moments and computes the channels of a side.
template <class S>
inline void line_channels(const LineSide<S>& side, Lines<S>& lines) {
  for (std::size_t m = 0; m < side.moments.size(); ++m) {
    const S correction = side.moments[m].correction;
    S* own = &lines.moments[m * lines.stride];
    fill_row(own, lines.stride, [=](int64_t i) { return Vector<S>(load(own + i) * correction); });
  }
  for (std::size_t f = 0; f < side.features.size(); ++f) {
    const S* moment = &lines.moments[side.features[f].moment * lines.stride];
    S* channel = &lines.channels[f * lines.stride];
    if (side.features[f].reciprocal)
      fill_row(channel, lines.stride,
               [=](int64_t i) { return reciprocal_root_of(load(moment + i) + S(kReciprocalEpsilon)); });
    else
      fill_row(channel, lines.stride, [=](int64_t i) { return load(moment + i); });
    for (int64_t i = lines.n; i < lines.stride; ++i) channel[i] = 0;
  }
}

// The factors of the factored second moments v̂ᵢⱼ = rᵢ·cⱼ / mean(r) (Shazeer & Stern 2018).
template <class S>
inline void factored_moments(const LineProgram<S>& program, Lines<S>& rows, Lines<S>& columns) {
  for (std::size_t f = 0; f < program.factored.size(); ++f) {
    const S* row = &rows.moments[program.factored[f].row_moment * rows.stride];
    const S* column = &columns.moments[program.factored[f].column_moment * columns.stride];
    Vector<S> total{};
    for (int64_t i = 0; i < rows.stride; i += VectorOf<S>::width) total += load(row + i);
    const S root = std::sqrt(sum_of<S>(total) * (S(1) / rows.n) + S(kRootEpsilon));
    fill_row(&rows.factors[f * rows.stride], rows.stride,
             [=](int64_t i) { return reciprocal_root_of(load(row + i) + S(kRootEpsilon)) * root; });
    fill_row(&columns.factors[f * columns.stride], columns.stride,
             [=](int64_t i) { return reciprocal_root_of(load(column + i) + S(kRootEpsilon)); });
  }
}

// Calls visit(i, line, j, length) for the pieces of rows that a block of n coordinates, which starts at `start`
// within the matrix, is made of: coordinates i to i + length of the block are entries j, j + 1 … of row `line`.
template <class Visit>
EVOMETA_INLINE void for_each_piece(int64_t n_columns, int64_t start, int64_t n, Visit visit) {
  int64_t line = start / n_columns, j = start % n_columns;
  for (int64_t i = 0; i < n; ++line, j = 0) {
    const int64_t length = std::min(n_columns - j, n - i);
    visit(i, line, j, length);
    i += length;
  }
}

// Spreads pairs of lines over a block of n coordinates: for pair k and coordinate start + i of the matrix
//   out[k·width + i] = combine(row_values of its row, column_values of its column).
// Whole vectors are written, so `out` needs one more after its last row.
template <class S, class Combine>
inline void spread_lines(const Lines<S>& rows, const S* row_values, const Lines<S>& columns, const S* column_values,
                         int64_t n_pairs, int64_t start, int64_t n, int64_t width, S* out, Combine combine) {
  constexpr int64_t w = VectorOf<S>::width;
  for (int64_t k = 0; k < n_pairs; ++k, out += width) {
    const S* row = row_values + k * rows.stride;
    const S* column = column_values + k * columns.stride;
    if (columns.n == 1) {
      const Vector<S> only = splat(column[0]);
      for (int64_t i = 0; i < n; i += w) store(out + i, combine(load(row + start + i), only));
      continue;
    }
    for_each_piece(columns.n, start, n, [=](int64_t i, int64_t line, int64_t j, int64_t length) {
      const Vector<S> value = splat(row[line]);
#pragma GCC unroll 4
      for (int64_t at = 0; at < length; at += w) store(out + i + at, combine(value, load(column + j + at)));
    });
  }
}

// The transpose of spreading sums: adds each coordinate of a block to its row's sum and to its column's.
template <class S>
inline void gather_lines(const S* in, int64_t n_pairs, int64_t start, int64_t n, int64_t width, const Lines<S>& rows,
                         S* row_sums, const Lines<S>& columns, S* column_sums) {
  constexpr int64_t w = VectorOf<S>::width;
  for (int64_t k = 0; k < n_pairs; ++k, in += width) {
    S* row = row_sums + k * rows.stride;
    S* column = column_sums + k * columns.stride;
    if (columns.n == 1) {
      for (int64_t i = 0; i < n; ++i) row[start + i] += in[i];
      for (int64_t i = 0; i < n; ++i) column[0] += in[i];
      continue;
    }
    for_each_piece(columns.n, start, n, [=](int64_t i, int64_t line, int64_t j, int64_t length) {
      Vector<S> total{};
      int64_t at = 0;
      for (; at + w <= length; at += w) {
        const Vector<S> value = load(in + i + at);
        store(column + j + at, load(column + j + at) + value);
        total += value;
      }
      S sum = sum_of<S>(total);
      for (; at < length; ++at) {
        column[j + at] += in[i + at];
        sum += in[i + at];
      }
      row[line] += sum;
    });
  }
}

}  // namespace evometa

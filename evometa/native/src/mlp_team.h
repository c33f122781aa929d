// A step of MLP rules by all threads that PyTorch allows, the same to the last bit as by one.
#pragma once

#include <algorithm>
#include <memory>
#include <numeric>
#include <vector>

#include "mlp_forward.h"
#include "output_normalisers.h"
#include "threads.h"

namespace evometa {

// One thread takes a tensor whose channels are kept from the first pass over it to the second, or one that is not
// worth more; all others are shared, block by block.
template <class S>
class MlpTeam {
 public:
  explicit MlpTeam(const MlpProgram<S>& program)
      : program_(program), leader_(members_.own([&] { return std::make_unique<MlpForward<S>>(program); })) {
    int64_t wave = 0;
    for (std::size_t index = 0; index < program.tensors.size(); ++index) {
      const int64_t size = program.tensors[index].size();
      if (size > kGrain && !keeps_channels(program, program.tensors[index])) {
        together_.push_back(index);
        wave = std::max(wave, std::min(kWave, n_blocks(size)));
        continue;
      }
      alone_.push_back({index, n_alone_});
      n_alone_ += size;
      largest_alone_ = std::max(largest_alone_, size);
    }
    squares_.reset(new S[static_cast<std::size_t>(wave * block_squares())]);
  }

  // Whether there is work for more than one.
  static bool pays(const MlpProgram<S>& program) {
    if (program.tensors.size() == 1 && keeps_channels(program, program.tensors[0])) return false;
    const auto size = [](int64_t sum, const Matrix& tensor) { return sum + tensor.size(); };
    return n_threads() > 1 && std::accumulate(program.tensors.begin(), program.tensors.end(), int64_t(0), size) > kGrain;
  }

  // Turns to the next candidate, whose weights stay where they are.
  void begin_candidate(const PackedWeights<S>& weights) {
    weights_ = &weights;
    leader_.begin_candidate(weights);
  }

  // As MlpForward does.
  void advance(const Run<S>& run, const Statistics<S>& before, S* params_after) {
    share(n_alone_, kGrain, [&](int64_t begin, int64_t end) {
      MlpForward<S>& own = member();
      own.begin_run(run);
      for (const auto& [index, start] : alone_)
        if (start >= begin && start < end) own.advance_tensor(run, index, before, params_after);
    });
    leader_.begin_run(run);
    for (const std::size_t index : together_) advance_together(run, index, before, params_after);
  }

 private:
  static constexpr int64_t kGrain = 1 << 14;  // coordinates that are worth a thread
  // Blocks whose squares wait to be added up: a few megabytes. Threads wait for each other after as many, which takes
  // long where a core has something else to do.
  static constexpr int64_t kWave = 1 << 11;

  int64_t block_squares() const { return program_.network.n_channels * VectorOf<S>::width; }

  // That of this thread; the first thread's is the leader.
  MlpForward<S>& member() {
    MlpForward<S>& own = members_.own([&] { return std::make_unique<MlpForward<S>>(program_, largest_alone_); });
    own.begin_candidate(*weights_);
    return own;
  }

  void advance_together(const Run<S>& run, std::size_t index, const Statistics<S>& before, S* params_after) {
    const int64_t size = program_.tensors[index].size(), n = n_blocks(size);
    leader_.begin_tensor(run, index, before);
    for (int64_t start = 0; start < n; start += kWave) observe(start, std::min(n, start + kWave));
    leader_.begin_network();
    if (!program_.output.normalised())
      return share_network(n, [&](MlpForward<S>& own, int64_t begin, int64_t end) {
        own.write_params(run, begin, end, params_after);
      });
    S* const outputs = leader_.outputs();
    share_network(n, [&](MlpForward<S>& own, int64_t begin, int64_t end) { own.write_outputs(begin, end, outputs); });
    const S normaliser = shared_normaliser(outputs, size);
    share_network(n, [&](MlpForward<S>& own, int64_t begin, int64_t end) {
      own.finish(run, begin, end, outputs, normaliser, params_after);
    });
  }

  void observe(int64_t first, int64_t last) {
    share(last - first, kGrain / kBlock, [&](int64_t begin, int64_t end) {
      MlpForward<S>& own = member();
      own.follow(leader_);
      S* const squares = squares_.get() + begin * block_squares();
      std::fill_n(squares, (end - begin) * block_squares(), S(0));
      own.observe(first + begin, first + end, squares, block_squares());
    });
    for (int64_t block = 0; block < last - first; ++block) leader_.add_block(squares_.get() + block * block_squares());
  }

  template <class Work>
  void share_network(int64_t n, const Work& work) {
    share(n, kGrain / kBlock, [&](int64_t begin, int64_t end) {
      MlpForward<S>& own = member();
      own.follow(leader_);
      own.follow_network();
      work(own, begin, end);
    });
  }

  struct Alone {
    std::size_t index;
    int64_t start;  // coordinates of those before it
  };

  const MlpProgram<S>& program_;
  PerThread<MlpForward<S>> members_;
  MlpForward<S>& leader_;
  std::vector<Alone> alone_;
  std::vector<std::size_t> together_;
  int64_t n_alone_ = 0, largest_alone_ = 0;
  std::unique_ptr<S[]> squares_;  // of the blocks of a wave; whoever observes one begins with zeros
  const PackedWeights<S>* weights_ = nullptr;
};

}  // namespace evometa

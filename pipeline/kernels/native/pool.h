// Threads that share the outputs of one product, and sleep when there is none.
//
// One product at a time has helpers. A caller that finds them taken computes alone, and whoever calls always
// takes part itself: nothing waits for a thread that the system has not scheduled yet, only for parts that a
// helper has begun. After a product the helpers stay awake for `AWAKE`, longer than the time between two
// products of a step and much shorter than a frame.
//
// Processes that were given the same file for it (`set_turns`) take turns: while one has its helpers awake, the
// others compute without. More threads than cores would preempt each other in the middle of products.

#pragma once

#include <cstdint>
#include <string>

namespace packet_voice {

// Let one product use `count` threads, the caller included, and start them; returns how many there are. To be
// called by one thread at a time.
int set_threads(int count);
int threads();

// Share turns with the processes that use the same file; to be called before the first helper starts.
void set_turns(const std::string& path);

// How many tasks helpers have run so far.
uint64_t helped();

namespace detail {
void run(int tasks, void (*call)(void*, int), void* context);
}

// Call `f(task)` for each task below `tasks`, in any order and on any of the threads.
template <class F>
void in_parallel(int tasks, F&& f) {
  if (tasks <= 1 || threads() <= 1) {
    for (int task = 0; task < tasks; task++) f(task);
    return;
  }
  detail::run(tasks, [](void* context, int task) { (*static_cast<F*>(context))(task); }, &f);
}

}  // namespace packet_voice

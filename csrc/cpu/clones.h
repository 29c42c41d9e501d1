// One compiled body per instruction set, chosen when the library is loaded, where the build has
// found that the compiler can (csrc/probe/target_clones.cpp).
#pragma once

#ifdef JACFAST_TARGET_CLONES
#define JACFAST_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define JACFAST_CLONES
#endif

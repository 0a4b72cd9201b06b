/* Where every buffer of a step lies, and what runs as one: a shape-only run of the tape says when
 * each value and each gradient is first written and last read, and buffers that never live at the
 * same time share memory.
 *
 * Neighbouring maps over one shape become a group, fed by the product before them, and on the way
 * back by the one after, where that alone reads them. Of its values only those are kept that
 * somebody outside reads, and what a quantizer made under one scale is kept as codes, a byte each,
 * or half a byte where codes of at most 4 bits lie in rows of an even length. Where a bit per
 * element tells backward all that it needs of values, bits are kept.
 *
 * A segment, what a block recorded, can be run again (TapeMode.recompute): then of its values only
 * those are kept that somebody outside reads, and its forward runs once more just before its
 * backward, into memory that all segments share. What parameters alone make is not of it, and a
 * group is wholly in a segment or wholly outside, so that groups, and with them bits, are those of
 * a step that keeps everything. The last of its ops need not run again, unless backward reads them.
 * Where only cheap ops run again, values of the others are kept as ever, and a group has only cheap
 * ops or none.
 *
 * Time counts the calls of a step: forward of Var i is i; then, from the last Var to the first, its
 * backward, and before that of a segment's last one the segment's forward again. */
#ifndef NIBBLE_AUTOGRAD_PLAN_H
#define NIBBLE_AUTOGRAD_PLAN_H

#include "autograd/map.h"
#include "autograd/tape.h"

typedef struct PlanBuffer {
    size_t bytes, offset; /* 0 bytes: there is no such buffer; the offset is into Plan.bytes */
    int begin, end;       /* time, both inclusive */
} PlanBuffer;

typedef struct PlanSlot { /* of one Var */
    const Op *op;
    Shape shape;
    PlanBuffer value, grad, mask; /* mask: see map_takes_masks; of a map that has notes, those */
    PlanBuffer again;             /* in a segment: the value from when it is made again */
    bool runs_again;
    bool wants_moments;      /* a batch norm asks for them next (Map.takes_moments) */
    Probe *probe;            /* what is asked of it (tape_probe), or NULL */
    Dtype dtype, grad_dtype; /* what the value and the gradient are kept as */
} PlanSlot;

/* Vars that run as one (autograd/map.h), by index. */
typedef struct PlanGroup {
    int ops[MAP_GROUP_MAX], count; /* the maps, in the order of the tape */
    int feed, tail;                /* as in MapGroup; -1: none */
    int first, last; /* of all these; the group runs when the last is met, in either direction */
} PlanGroup;

/* All groups of one direction, in which every map is of one. */
typedef struct PlanGroups {
    PlanGroup *groups;
    int count;
    int *of; /* by Var: its group, or -1: it runs by itself */
} PlanGroups;

/* Vars first .. last that run again together. */
typedef struct PlanSegment {
    int first, last;
} PlanSegment;

typedef struct Plan {
    PlanSlot *slots;
    int count;
    PlanSegment *segments; /* in the order of the tape */
    int segment_count;
    int *segment_of;              /* by Var: which runs it again, or -1: it runs once */
    int *again_at, *back_at;      /* by Var: time of its forward again, and of its backward */
    int end;                      /* of time */
    PlanGroups forward, backward; /* a value that is looked at ends a group of the former only */
    uint64_t signature;           /* of the record it was made for */
    size_t bytes;                 /* of the block that all buffers share */
    size_t value_bytes_kept; /* the most that waits for backward at one time: values and masks since
                                forward, and what a segment made again */
} Plan;

/* From a dry record whose result is `root`: its value is kept to the end. Memory from `arena`. */
Plan *plan_new(const Tape *record, const Var *root, Arena *arena);

/* The maps of `record` that run when `v` is met; of no ops where v is one of others, which run
 * elsewhere. Without a plan (NULL) v runs alone. */
MapGroup plan_group(const Plan *plan, const Tape *record, const Var *v, bool is_forward);

/* The group of the Var with this index; NULL: it runs by itself. */
const PlanGroup *plan_group_of(const Plan *plan, int index, bool is_forward);

/* A step of plan_new: fills `forward` and `backward`. */
void plan_find_groups(Plan *plan, const Tape *record, const Var *root, Arena *arena);

/* The next: the segments of the record, and all times. */
void plan_find_segments(Plan *plan, const Tape *record, Arena *arena);

/* The next: when each value and each gradient is there (PlanBuffer.begin, end), and which are kept
 * at all (bytes 1). */
void plan_find_lives(Plan *plan, const Tape *record, const Var *root);

/* Whose memory v's value is. */
const Var *plan_owner(const Var *v);

/* What lives from forward to backward of one Var: its value, its mask. */
size_t plan_kept_bytes(const Plan *plan, int index);

/* Equal for records whose plans are equal. */
uint64_t plan_signature(const Tape *record, const Var *root);

#endif

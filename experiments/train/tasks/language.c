/* Language: the network reads tokens and gives each position logits of the next one. The loss is
 * the mean, over the positions that are scored, of the next token's cross-entropy in nats;
 * perplexity is its exponential. The head gives the loss itself (TokenContext), so that all logits
 * are never there, but where outputs are compared. */
#include <math.h>

#include "autograd/ops.h"
#include "experiments/train/task.h"

static void record(TaskStep *step, Tape *t) {
    Model *model = step->e->model;
    Var *tokens = tape_constant(t, batch_f32(&step->batch, "tokens"));
    TokenContext *context = model_tokens(model, t);
    context->starts = tape_constant(t, batch_f32(&step->batch, "starts"));
    context->labels = batch_i32(&step->batch, "labels");
    context->is_scored = t->mode.is_training || !step->wants_outputs;
    step->loss = step->output = model_forward(model, t, tokens);
    if (!context->is_scored) step->loss = op_cross_entropy(t, step->output, context->labels, 0);
}

static int64_t count_samples(const Batch *batch) {
    const int32_t *labels = batch_i32(batch, "labels");
    int64_t positions = batch_f32(batch, "tokens").shape.dim[1] * batch->count, scored = 0;
    for (int64_t i = 0; i < positions; i++) scored += labels[i] >= 0;
    return scored;
}

static void add(const TaskStep *step, TaskTally *tally) {
    (void)step, (void)tally; /* the loss says all */
}

static const double loss_max = 700; /* of which exp is still a number */

static void score(const TaskTally *tally, double scores[]) {
    scores[0] = exp(fmin(tally->loss / (double)tally->samples, loss_max));
}

const Task task_language = {
    .name = "language",
    .help = "text, of which each token is foretold by those before it",
    .sample = "model: {kind: transformer, width: 16, layers: 1, heads: 2, ff: 24}\n"
              "data: {kind: text, length: 8, batch: 3, eval_batch: 2, validation: 0.2, test: 0.2,\n"
              "       sample: 'the cat sat on the mat and the dog sat on the log and the cat saw "
              "the dog and the dog saw the cat on the mat and the log'}\n",
    .columns = {{"tokens", ELEMENT_F32}, {"labels", ELEMENT_I32}, {"starts", ELEMENT_F32}},
    .column_count = 3,
    .rows = "rows",
    .samples = "tokens",
    .scores = {{.key = "perplexity",
                .name = "perplexity",
                .short_name = "ppl",
                .unit = "",
                .points_unit = "",
                .factor = 1,
                .decimals = 2,
                .is_lower_better = true,
                .low = 1,
                .high = INFINITY}},
    .score_count = 1,
    .peft_task = "CAUSAL_LM",
    .record = record,
    .count_samples = count_samples,
    .add = add,
    .score = score,
};

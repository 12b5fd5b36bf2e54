// Records frames of the webcam into a class, as long as the button is held; frames wait until they are saved.
import * as camera from "./teach_camera.js";

const INTERVAL_MS = 100; // between frames
const BATCH = 10; // frames in a request
const [FIRST_RETRY_MS, LAST_RETRY_MS] = [1000, 10_000]; // the pauses after failures grow

const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

export class Recorder {
  // `actions`: save(frames, burst) resolves to { new, known, refused }; isHopeless(error) resolves to whether saving
  // can never succeed. It tells: onFrame(frames, rate), onProblem(text), onDropped(count, text) and, once nothing
  // waits any more, onSaved(count, refused).
  constructor(actions) {
    this.actions = actions;
    this.waiting = [];
    this.run = null; // of the recording that goes on; a loop ends when it is another one
    this.isLost = false; // the class is gone
    this.isSaving = false;
    this.saved = 0;
    this.refused = [];
  }

  async start() {
    if (this.run) return;
    const burst = crypto.randomUUID();
    this.run = burst;
    this.isLost = false;
    const startedAt = performance.now();
    let frames = 0;
    while (this.run === burst) {
      const next = startedAt + frames * INTERVAL_MS;
      await pause(Math.max(0, next - performance.now()));
      if (this.run !== burst) break;
      const blob = await camera.frame();
      if (this.isLost) break;
      if (!blob) continue;
      frames += 1;
      this.waiting.push({ blob, burst }); // also when the button was released just now: a press records at least one
      const isNewest = !this.run || this.run === burst;
      const rate = frames / ((performance.now() - startedAt) / 1000 + INTERVAL_MS / 1000);
      if (isNewest) this.actions.onFrame(frames, rate);
      if (this.waiting.length >= BATCH) this.flush();
    }
    await this.flush();
  }

  stop() {
    this.run = null;
  }

  get isBusy() {
    return this.run !== null || this.isSaving || this.waiting.length > 0;
  }

  async flush() {
    if (this.isSaving) return;
    this.isSaving = true;
    let retry = FIRST_RETRY_MS;
    while (this.waiting.length) {
      try {
        await this.saveBatch();
        retry = FIRST_RETRY_MS;
      } catch (error) {
        if (await this.actions.isHopeless(error)) {
          this.drop(error);
        } else {
          this.actions.onProblem(error.message);
          await pause(retry);
          retry = Math.min(2 * retry, LAST_RETRY_MS);
        }
      }
    }
    this.isSaving = false;
    if (!this.run) this.finish();
  }

  async saveBatch() {
    const { burst } = this.waiting[0];
    const batch = this.waiting.filter((each) => each.burst === burst).slice(0, BATCH);
    const found = await this.actions.save(batch.map((each) => each.blob), burst);
    this.waiting = this.waiting.filter((each) => !batch.includes(each));
    this.saved += found.new + found.known;
    this.refused.push(...found.refused);
    this.actions.onProblem("");
  }

  drop(error) {
    this.stop();
    this.isLost = true;
    this.actions.onDropped(this.waiting.length, error.message);
    this.waiting = [];
  }

  finish() {
    if (this.saved || this.refused.length) this.actions.onSaved(this.saved, this.refused);
    this.saved = 0;
    this.refused = [];
  }
}

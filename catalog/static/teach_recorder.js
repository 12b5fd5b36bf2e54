// Records frames of the webcam into a class, as long as the button is held; frames wait until they are saved.
import * as camera from "./teach_camera.js";

const INTERVAL_MS = 100; // between frames
const BATCH = 10; // frames in a request
const RETRY_MS = 1000;

const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

export class Recorder {
  // `save(frames, burst)` stores frames; `report({ frames, rate, problem })` shows the progress.
  constructor(save, report) {
    this.save = save;
    this.report = report;
    this.waiting = [];
    this.isRecording = false;
    this.isSaving = false;
  }

  async start() {
    if (this.isRecording) return;
    this.isRecording = true;
    const burst = crypto.randomUUID();
    const startedAt = performance.now();
    let frames = 0;
    while (this.isRecording) {
      const next = startedAt + frames * INTERVAL_MS;
      await pause(Math.max(0, next - performance.now()));
      const blob = await camera.frame();
      if (!blob) continue;
      frames += 1;
      this.waiting.push({ blob, burst });
      this.report({ frames, rate: frames / ((performance.now() - startedAt) / 1000 + INTERVAL_MS / 1000) });
      if (this.waiting.length >= BATCH) this.flush();
    }
    await this.flush();
  }

  stop() {
    this.isRecording = false;
  }

  get isBusy() {
    return this.isRecording || this.isSaving || this.waiting.length > 0;
  }

  async flush() {
    if (this.isSaving) return;
    this.isSaving = true;
    while (this.waiting.length) {
      const { burst } = this.waiting[0];
      const batch = this.waiting.filter((each) => each.burst === burst).slice(0, BATCH);
      try {
        await this.save(batch.map((each) => each.blob), burst);
        this.waiting = this.waiting.filter((each) => !batch.includes(each));
      } catch (error) {
        if (error.status >= 400 && error.status < 500) this.waiting = []; // the class is gone
        this.report({ problem: error.message });
        await pause(RETRY_MS);
      }
    }
    this.isSaving = false;
  }
}

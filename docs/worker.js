// Browsers refuse workers on pages that are opened from a folder. There the search of the site runs in a hidden frame.
if (location.protocol === "file:") {
  window.IFrameWorker = window.Worker = class extends EventTarget {
    constructor(url) {
      super()
      this.frame = document.createElement("iframe")
      this.frame.hidden = true
      document.body.appendChild(this.frame)
      const inside = this.frame.contentWindow
      this.ready = new Promise(done => {
        inside.postMessage = data => this.dispatchEvent(new MessageEvent("message", { data }))
        inside.importScripts = (...names) => Promise.all(names.map(name => load(inside, new URL(name, url))))
        load(inside, url).then(done)
      })
    }
    postMessage(data) {
      this.ready.then(() => this.frame.contentWindow.dispatchEvent(new MessageEvent("message", { data })))
    }
    terminate() {
      this.frame.remove()
    }
  }
}

function load(target, url) {
  return new Promise((done, failed) => {
    const script = target.document.createElement("script")
    script.src = url
    script.onload = done
    script.onerror = failed
    target.document.head.appendChild(script)
  })
}

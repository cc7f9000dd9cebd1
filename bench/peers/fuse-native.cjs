/** A directory shown by fuse-native: `node fuse-native.cjs MODULE DIRECTORY MOUNTPOINT`. */
const fs = require("node:fs");
const { join } = require("node:path");

const [, , fuseNative, directory, mountpoint] = process.argv;
const Fuse = require(fuseNative);
const at = (path) => join(directory, path);
const reply = (done) => (error, value) => (error ? done(error.errno) : done(0, value));

const operations = {
  readdir: (path, done) => fs.readdir(at(path), reply(done)),
  getattr: (path, done) => fs.lstat(at(path), reply(done)),
  readlink: (path, done) => fs.readlink(at(path), reply(done)),
  open: (path, _flags, done) => fs.open(at(path), "r", reply(done)),
  release: (_path, fd, done) => fs.close(fd, (error) => done(error ? error.errno : 0)),
  read: (_path, fd, buffer, length, position, done) =>
    fs.read(fd, buffer, 0, length, position, (error, read) => done(error ? error.errno : read)),
};
const options = { debug: false, displayFolder: false, mkdir: false };
const fuse = new Fuse(mountpoint, operations, options);
fuse.mount((error) => {
  if (error) throw error;
  console.log("ready");
});
